"""Measures the figures of `python -m benchmarks cloud`, one group at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.commands.figures import CLOUD_GROUPS, CloudGroup, CloudSettings
from benchmarks.figures import Figure, in_folder, measure_groups
from benchmarks.serving.connections import measure_connections
from benchmarks.serving.drain import measure_drains
from benchmarks.serving.fairness import measure_fairness
from benchmarks.serving.front import measure_front, measure_growth
from benchmarks.serving.overload import measure_overload
from benchmarks.serving.peer import measure_peers
from benchmarks.untrained import small_cnn_bundle

_MEASURES: Final[dict[CloudGroup, Callable[[Path, CloudSettings], list[Figure]]]] = {
    "peer": lambda folder, s: measure_peers(folder, s.seed, s.peer_rounds),
    "front": lambda folder, s: measure_front(folder, s.seed, s.rounds),
    "overload": lambda folder, s: measure_overload(folder, s.seed, s.overload_rounds),
    "fairness": lambda folder, s: measure_fairness(folder, s.seed, s.fairness_rounds),
    "drain": lambda folder, s: measure_drains(small_cnn_bundle(folder, s.seed), s.seed, s.drains),
    "connections": lambda folder, s: measure_connections(folder, s.seed, s.connections),
    "soak": lambda folder, s: measure_growth(folder, s.seed, s.requests),
}


def measure(settings: CloudSettings) -> None:
    """Print the figures of the chosen groups, and write them if a file is named."""
    groups = settings.only or CLOUD_GROUPS
    measure_groups(
        {group: partial(in_folder, _MEASURES[group], settings) for group in groups}, settings.out
    )
