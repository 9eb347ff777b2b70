"""The command `python -m benchmarks runtime`: what the runtime costs beside its bare libraries."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.commands.figures import RUNTIME_GROUPS, RuntimeGroup, RuntimeSettings
from benchmarks.figures import Figure, measure_groups
from benchmarks.runtime.calls import call_figures
from benchmarks.runtime.client import client_figures
from benchmarks.runtime.drift import drift_figures
from benchmarks.runtime.footprint import footprint_figures
from benchmarks.runtime.memory import memory_figures
from benchmarks.runtime.outage import outage_figures
from benchmarks.untrained import small_cnn_bundle

# MERGEDOC benchmarks/runtime_figures.py: 'Measures the figures of `runtime`, a group at a time.'

_MEASURES: Final[dict[RuntimeGroup, Callable[[Path, RuntimeSettings], list[Figure]]]] = {
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
        groups = settings.only or RUNTIME_GROUPS
        measure_groups(
            {group: partial(_MEASURES[group], bundle, settings) for group in groups}, settings.out
        )
