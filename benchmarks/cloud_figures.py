"""Measures the figures of `cloud`, a group at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.bundles import small_cnn_bundle
from benchmarks.cloud import CLOUD_GROUPS, CloudGroup, CloudSettings
from benchmarks.figure import Figure, write_figures
from benchmarks.serving.connection_figures import connection_figures
from benchmarks.serving.drain_figures import drain_figures
from benchmarks.serving.front_figures import front_figures
from benchmarks.serving.overload_figures import overload_figures
from benchmarks.serving.peer_figures import peer_figures
from benchmarks.serving.soak_figures import soak_figures
from benchmarks.steps import step
from edge_runtime.environment import hardware

_MEASURES: Final[dict[CloudGroup, Callable[[Path, CloudSettings], list[Figure]]]] = {
    "peer": lambda folder, s: peer_figures(folder, s.seed, s.peer_rounds),
    "front": lambda folder, s: front_figures(folder, s.seed, s.rounds),
    "overload": lambda folder, s: overload_figures(folder, s.seed, s.overload_rounds),
    "drain": lambda folder, s: drain_figures(small_cnn_bundle(folder, s.seed), s.seed, s.drains),
    "connections": lambda folder, s: connection_figures(folder, s.seed, s.connections),
    "soak": lambda folder, s: soak_figures(folder, s.seed, s.requests),
}


def measure(settings: CloudSettings) -> None:
    """Print every figure, and write them where asked."""
    machine = hardware()
    print(f"{machine['cores']} cores of {machine['processor']}", flush=True)
    figures: list[Figure] = []
    for group in settings.only or CLOUD_GROUPS:
        with step(group), tempfile.TemporaryDirectory() as folder:
            measured = _MEASURES[group](Path(folder), settings)
            print(*(figure.line() for figure in measured), sep="\n", flush=True)
        figures += measured
    missed = sum(figure.is_met is False for figure in figures)
    print(f"{len(figures)} figures, {missed} missed")
    if settings.out is not None:
        write_figures(settings.out, figures)
