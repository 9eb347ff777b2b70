"""Checks a file of figures: values follow from their samples, verdicts from values and limits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.errors import CheckError
from benchmarks.figure import STATISTICS, Figure
from benchmarks.results import compare

_FIELDS: Final = {field.name for field in dataclasses.fields(Figure)}


def holds_figures(path: Path) -> bool:
    """Tell whether a file is one that `write_figures` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and isinstance(content.get("figures"), list)


def check(path: Path) -> int:
    """Recompute the figures of a file; return how many there are.

    Raises:
        CheckError: The file holds none, or one is not what follows.
    """
    stored = _read(path)
    for one in stored:
        _check(f"{path}: {one.figure.name}", one.figure, is_met=one.is_met)
    return len(stored)


def table(path: Path) -> str:
    """Return the figures of a file as a table for a page.

    Raises:
        CheckError: The file holds none.
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


def _read(path: Path) -> list[_Stored]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["figures"]
        return [_Stored(_figure(one), one["met"]) for one in stored]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckError(f"expected a file of figures at {path}: {error!r}") from None


def _figure(stored: dict[str, Any]) -> Figure:
    return Figure(**{name: value for name, value in stored.items() if name in _FIELDS})


def _check(where: str, figure: Figure, *, is_met: bool | None) -> None:
    if figure.samples:
        compare(STATISTICS[figure.statistic](figure.samples), figure.value, f"{where}: value")
    # One that never came to pass is infinite when measured, and has no value in the file.
    follows = False if figure.value is None and is_met is False else figure.is_met
    if is_met is not follows:
        raise CheckError(f"{where}: the limit gives met = {follows}, the file says {is_met}")
