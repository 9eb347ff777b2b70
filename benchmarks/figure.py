"""One measured cost beside its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, Self

from edge_runtime.environment import describe

_LEAST: Final = 5e-4
Statistic = Literal["median", "sum", "slope", "greatest", "share"]


@dataclass(frozen=True)
class Figure:
    """One measured cost and its limit.

    Attributes:
        name: What was measured, beside what.
        value: The measurement; None where it could not be made, and the detail says why.
        limit: What it may be at most; None where it is only told.
        unit: Of value and limit.
        detail: The peer's figure, and under which conditions both were measured.
        at_least: The limit is the least that it may be.
        samples: What the value is made of, a round or a point each; empty where it is not kept.
        statistic: What makes the value of the samples.
    """

    name: str
    value: float | None
    limit: float | None
    unit: str
    detail: str
    at_least: bool = False
    samples: tuple[Any, ...] = ()
    statistic: Statistic = "median"

    @classmethod
    def of(
        cls,
        name: str,
        samples: Sequence[Any],
        limit: float | None,
        unit: str,
        detail: str,
        *,
        at_least: bool = False,
        statistic: Statistic = "median",
    ) -> Self:
        """Make a figure whose value follows from samples, which are kept beside it."""
        value = STATISTICS[statistic](samples)
        return cls(name, value, limit, unit, detail, at_least, tuple(samples), statistic)

    @property
    def is_met(self) -> bool | None:
        """Whether it keeps its limit; None where nothing was measured, or there is no limit."""
        if self.value is None or self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        """Return how it is printed."""
        value = f"{'-':>8}" if self.value is None else _in_digits(self.value)
        side = "at least" if self.at_least else "limit"
        limit = "no limit" if self.limit is None else f"{side} {self.limit:g}"
        measured = f"{value} {self.unit:3} {limit}"
        return f"{self.name:52} {measured}  {self._verdict()}  ({self.detail})"

    def _verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return {True: "met", False: "MISSED", None: "told"}[self.is_met]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, with the verdict; what never came to pass has no value."""
        value = self.value if self.value is not None and isfinite(self.value) else None
        content = {**asdict(self), "value": value, "met": self.is_met}
        if not self.samples:
            del content["samples"], content["statistic"]
        return content


def _in_digits(value: float) -> str:
    """Return three decimals, and where they would all be noughts, the digits that there are."""
    return f"{value:8.3f}" if value == 0 or not abs(value) < _LEAST else f"{value:8.1e}"


def _slope(points: Sequence[Sequence[float]]) -> float:
    import numpy as np

    from benchmarks.trend import slope

    x, y = np.array(points, float).T
    return slope(x, y)[0]


def _greatest(samples: Sequence[float]) -> float:
    import numpy as np

    return float(np.max(samples))  # a NaN among them is the greatest


def _share(pairs: Sequence[Sequence[float]]) -> float:
    """Return the share of parts in wholes, each pair one of both; 0 where there is nothing."""
    whole = sum(whole for _, whole in pairs)
    return sum(part for part, _ in pairs) / whole if whole else 0.0


STATISTICS: Final[dict[Statistic, Callable[[Sequence[Any]], float]]] = {
    "median": lambda samples: float(median(samples)),
    "sum": lambda samples: float(sum(samples)),
    "slope": _slope,
    "greatest": _greatest,
    "share": _share,
}


def write_figures(out: Path, figures: Iterable[Figure]) -> None:
    """Write figures as JSON, with what another person needs to repeat them."""
    from benchmarks.results import write_json

    listed = [figure.as_dict() for figure in figures]
    write_json(out, {**describe("benchmarks"), "figures": listed})
