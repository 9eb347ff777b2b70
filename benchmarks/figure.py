"""One measured cost beside its limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from edge_runtime.environment import describe


@dataclass(frozen=True)
class Figure:
    """One measured cost and its limit.

    Attributes:
        name: What was measured, beside what.
        value: The measurement; None where it could not be made, and the detail says why.
        limit: What it may be at most.
        unit: Of value and limit.
        detail: The peer's figure, and under which conditions both were measured.
        at_least: The limit is the least that it may be.
    """

    name: str
    value: float | None
    limit: float
    unit: str
    detail: str
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether it keeps its limit; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        """Return how it is printed."""
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.is_met]
        value = f"{'-':>8}" if self.value is None else f"{self.value:8.3f}"
        side = "at least" if self.at_least else "limit"
        measured = f"{value} {self.unit:3} {side} {self.limit:g}"
        return f"{self.name:52} {measured}  {verdict}  ({self.detail})"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, with the verdict; what never came to pass has no value."""
        value = self.value if self.value is not None and isfinite(self.value) else None
        return {**asdict(self), "value": value, "met": self.is_met}


def write_figures(out: Path, figures: Iterable[Figure]) -> None:
    """Write figures as JSON, with what another person needs to repeat them."""
    from benchmarks.results import write_json

    listed = [figure.as_dict() for figure in figures]
    write_json(out, {**describe("benchmarks"), "figures": listed})
