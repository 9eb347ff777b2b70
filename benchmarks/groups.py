"""Measures figures a group at a time, and says after each what came out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from benchmarks.figure import Figure, write_figures
from benchmarks.steps import step
from edge_runtime.environment import hardware

_Settings = TypeVar("_Settings")


def measure_groups(measures: Mapping[str, Callable[[], list[Figure]]], out: Path | None) -> None:
    """Print every figure, and write all of them where asked.

    Args:
        measures: What measures a group, by its name.
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
    """Let one measure in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder), settings)
