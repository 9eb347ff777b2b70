"""Checks a file of figures: values follow from their samples, verdicts from values and limits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

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
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        for figure in figures:
            _check(path, figure)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckError):
            raise
        raise CheckError(f"expected a file of figures at {path}: {error!r}") from None
    return len(figures)


def _check(path: Path, stored: dict[str, Any]) -> None:
    where = f"{path}: {stored['name']}"
    figure = Figure(**{name: value for name, value in stored.items() if name in _FIELDS})
    if figure.samples:
        compare(STATISTICS[figure.statistic](figure.samples), figure.value, f"{where}: value")
    # One that never came to pass is infinite when measured, and has no value in the file.
    follows = False if figure.value is None and stored["met"] is False else figure.is_met
    if stored["met"] is not follows:
        raise CheckError(f"{where}: the limit gives met = {follows}, the file says {stored['met']}")
