"""Measured figures with their limits: printed, written, and checked against their samples."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.documents import compare, is_number, read_json, write_json
from benchmarks.errors import CheckError
from benchmarks.steps import step
from edge_runtime.environment import describe, hardware

if TYPE_CHECKING:
    from typing_extensions import Self

_LEAST: Final = 5e-4
Statistic = Literal["median", "sum", "slope", "greatest", "share"]

_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class Figure:
    """One measured cost and its limit.

    Attributes:
        name: The measured quantity, and the peer that it is relative to.
        value: The measurement; None where it could not be made, and the detail says why.
        limit: Largest value allowed; None for a figure without a limit.
        unit: Unit of value and limit.
        detail: The peer's figure, and the conditions of both measurements.
        at_least: Whether the limit is the smallest value allowed.
        samples: One number or point per round, from which the value follows; may be empty.
        statistic: Name of the statistic that gives the value from the samples.
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
        """Make a figure whose value follows from samples, which it keeps."""
        value = STATISTICS[statistic](samples)
        return cls(name, value, limit, unit, detail, at_least, tuple(samples), statistic)

    @property
    def is_met(self) -> bool | None:
        """True if the limit is kept; None without a measurement or a limit."""
        if self.value is None or self.limit is None:
            return None
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)

    def line(self) -> str:
        """Return the figure as one line of text."""
        value = f"{'-':>8}" if self.value is None else _digits(self.value)
        side = "at least" if self.at_least else "limit"
        limit = "no limit" if self.limit is None else f"{side} {self.limit:g}"
        measured = f"{value} {self.unit:3} {limit}"
        return f"{self.name:52} {measured}  {self._verdict()}  ({self.detail})"

    def _verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return {True: "met", False: "MISSED", None: "measured"}[self.is_met]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values with the verdict; an infinite value becomes None."""
        value = self.value if self.value is not None and isfinite(self.value) else None
        content = {**asdict(self), "value": value, "met": self.is_met}
        if not self.samples:
            del content["samples"], content["statistic"]
        return content


def _digits(value: float) -> str:
    """Return three decimals, or two significant digits where all three would be zeros."""
    return f"{value:8.3f}" if value == 0 or not abs(value) < _LEAST else f"{value:8.1e}"


def slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope of the line of least squares, and its standard error.

    Args:
        x: Abscissas [n], n >= 3, not all equal.
        y: Ordinates [n].
    """
    dx, dy = x - x.mean(), y - y.mean()
    square = float(dx @ dx)
    per_x = float(dx @ dy) / square
    rest = dy - per_x * dx
    return per_x, float(np.sqrt(rest @ rest / (len(rest) - 2) / square))


def _slope(points: Sequence[Sequence[float]]) -> float:
    x, y = np.array(points, float).T
    return slope(x, y)[0]


def _greatest(samples: Sequence[float]) -> float:
    return float(np.max(samples))  # a NaN among them is the greatest


def _share(pairs: Sequence[Sequence[float]]) -> float:
    """Return the share of parts in wholes, given pairs of both; 0 for an empty whole."""
    whole = sum(whole for _, whole in pairs)
    return sum(part for part, _ in pairs) / whole if whole else 0.0


STATISTICS: Final[dict[Statistic, Callable[[Sequence[Any]], float]]] = {
    "median": lambda samples: float(median(samples)),
    "sum": lambda samples: float(sum(samples)),
    "slope": _slope,
    "greatest": _greatest,
    "share": _share,
}


def measure_groups(measures: Mapping[str, Callable[[], list[Figure]]], out: Path | None) -> None:
    """Measure figures one group at a time, print each, and write all to a file if one is named.

    Args:
        measures: The measurement of each group, by the group's name.
        out: File for the result, or None.
    """
    machine = hardware()
    print(f"{machine['cores']} cores of {machine['processor']}", flush=True)
    figures: list[Figure] = []
    for group, measure in measures.items():
        with step(group):
            measured = measure()
            print(*(figure.line() for figure in measured), sep="\n", flush=True)
        figures += measured
    missed = sum(figure.is_met is False for figure in figures)
    print(f"{len(figures)} figures, {missed} missed")
    if out is not None:
        write_figures(out, figures)


def in_folder(
    measure: Callable[[Path, _Settings], list[Figure]], settings: _Settings
) -> list[Figure]:
    """Return the figures of a measurement that runs in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), settings)


def write_figures(out: Path, figures: Iterable[Figure]) -> None:
    """Write figures as JSON, with all that is needed to repeat them."""
    listed = [figure.as_dict() for figure in figures]
    write_json(out, {**describe("benchmarks"), "figures": listed})


def holds_figures(path: Path) -> bool:
    """Return whether `write_figures` wrote a JSON file."""
    content: Any = read_json(path)
    return isinstance(content, dict) and isinstance(content.get("figures"), list)


def check(path: Path) -> int:
    """Recompute the figures of a file from their samples; return their number.

    Raises:
        CheckError: The file holds no figures, or a value or verdict differs.
    """
    stored = _read(path)
    for one in stored:
        _check(f"{path}: {one.figure.name}", one.figure, is_met=one.is_met)
    return len(stored)


def table(path: Path) -> str:
    """Return the figures of a file as a Markdown table.

    Raises:
        CheckError: The file holds no figures.
    """
    rows = ["| figure | measured | limit | | |", "|---|---|---|---|---|"]
    for figure, is_met in _read(path):
        value = "-" if figure.value is None else f"{figure.value:.3g} {figure.unit}".strip()
        limit = "-" if figure.limit is None else f"{figure.limit:g}"
        side = "at least " if figure.at_least and figure.limit is not None else ""
        verdict = {True: "met", False: "**missed**", None: "-"}[is_met]
        rows.append(f"| {figure.name} | {value} | {side}{limit} | {verdict} | {figure.detail} |")
    return "\n".join(rows)


class _Stored(NamedTuple):
    figure: Figure
    is_met: bool | None


_FIELDS: Final = {field.name for field in dataclasses.fields(Figure)}


def _read(path: Path) -> list[_Stored]:
    try:
        return [_stored(one) for one in read_json(path)["figures"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckError(f"expected a file of figures at {path}: {error!r}") from None


def _stored(content: dict[str, Any]) -> _Stored:
    figure: Any = Figure(**{name: value for name, value in content.items() if name in _FIELDS})
    fits = (
        all(isinstance(text, str) for text in (figure.name, figure.unit, figure.detail))
        and all(number is None or is_number(number) for number in (figure.value, figure.limit))
        and isinstance(figure.at_least, bool)
        and isinstance(content["met"], bool | None)
        and isinstance(figure.samples, list | tuple)
        and figure.statistic in STATISTICS
    )
    if not fits:
        raise TypeError(f"not a figure: {str(content)[:80]}")
    return _Stored(figure, content["met"])


def _check(where: str, figure: Figure, *, is_met: bool | None) -> None:
    if figure.samples:
        try:
            value = STATISTICS[figure.statistic](figure.samples)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise CheckError(
                f"{where}: expected samples with a {figure.statistic}: {error}"
            ) from None
        compare(value, figure.value, f"{where}: value")
    # An infinite value misses its limit when it is measured, and is None in the file.
    expected = False if figure.value is None and is_met is False else figure.is_met
    if is_met is not expected:
        raise CheckError(f"{where}: the limit gives met = {expected}, the file says {is_met}")
