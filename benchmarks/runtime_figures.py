"""Measures the figures of `runtime`, a group at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.bundles import small_cnn_bundle
from benchmarks.call_figures import call_figures
from benchmarks.client_figures import client_figures
from benchmarks.drift_figures import drift_figures
from benchmarks.figure import Figure
from benchmarks.footprint_figures import footprint_figures
from benchmarks.groups import measure_groups
from benchmarks.memory_figures import memory_figures
from benchmarks.outage_figures import outage_figures
from benchmarks.runtime import GROUPS, Group, RuntimeSettings

_MEASURES: Final[dict[Group, Callable[[Path, RuntimeSettings], list[Figure]]]] = {
    "calls": lambda bundle, s: call_figures(bundle, s.seed, s.rounds),
    "client": lambda bundle, s: client_figures(bundle, s.seed, s.rounds),
    "memory": lambda bundle, s: memory_figures(bundle, s.seed, s.edge_calls, s.deferred_calls),
    "footprint": lambda bundle, s: footprint_figures(bundle, s.starts),
    "drift": lambda _, s: drift_figures(s.seed, s.months, s.months),
    "outage": lambda bundle, s: outage_figures(bundle, s.seed),
}


def measure(settings: RuntimeSettings) -> None:
    """Print every figure, and write them where asked."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = small_cnn_bundle(Path(folder), settings.seed)
        groups = settings.only or GROUPS
        measure_groups(
            {group: partial(_MEASURES[group], bundle, settings) for group in groups}, settings.out
        )
