"""Measures the figures of `cloud`, a group at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.bundles import small_cnn_bundle
from benchmarks.cloud import CLOUD_GROUPS, CloudGroup, CloudSettings
from benchmarks.figure import Figure
from benchmarks.groups import in_folder, measure_groups
from benchmarks.serving.connection_figures import connection_figures
from benchmarks.serving.drain_figures import drain_figures
from benchmarks.serving.front_figures import front_figures
from benchmarks.serving.overload_figures import overload_figures
from benchmarks.serving.peer_figures import peer_figures
from benchmarks.serving.soak_figures import soak_figures

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
