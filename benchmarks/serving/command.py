"""The command `python -m benchmarks cloud`: what the server of M_L does under load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.commands.figures import CLOUD_GROUPS, CloudGroup, CloudSettings
from benchmarks.figures import Figure, in_folder, measure_groups
from benchmarks.serving.connections import connection_figures
from benchmarks.serving.drain import drain_figures
from benchmarks.serving.front import front_figures, soak_figures
from benchmarks.serving.overload import overload_figures
from benchmarks.serving.peer import peer_figures
from benchmarks.untrained import small_cnn_bundle

# MERGEDOC benchmarks/cloud_figures.py: 'Measures the figures of `cloud`, a group at a time.'

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
    groups = settings.only or CLOUD_GROUPS
    measure_groups(
        {group: partial(in_folder, _MEASURES[group], settings) for group in groups}, settings.out
    )
