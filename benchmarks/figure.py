"""One measured cost beside its limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured cost and its limit."""

    name: str
    value: float
    limit: float
    unit: str
    detail: str

    def line(self) -> str:
        """Return how it is printed."""
        verdict = "met" if self.value <= self.limit else "MISSED"
        measured = f"{self.value:8.3f} {self.unit:3} limit {self.limit:g}"
        return f"{self.name:42} {measured}  {verdict}  ({self.detail})"
