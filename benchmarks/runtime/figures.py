"""Measures the figures of `python -m benchmarks runtime`, one group at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Final

from benchmarks.commands.figures import RUNTIME_GROUPS, RuntimeGroup, RuntimeSettings
from benchmarks.figures import Figure, measure_groups
from benchmarks.runtime.calls import measure_calls
from benchmarks.runtime.client import measure_client
from benchmarks.runtime.drift import measure_drift
from benchmarks.runtime.footprint import measure_footprint
from benchmarks.runtime.memory import measure_memory
from benchmarks.runtime.outage import measure_outages
from benchmarks.untrained import small_cnn_bundle

Bundle = Callable[[], Path]
"""Makes the groups' bundle on first use."""
_MEASURES: Final[dict[RuntimeGroup, Callable[[Bundle, RuntimeSettings], list[Figure]]]] = {
    "calls": lambda bundle, s: measure_calls(bundle(), s.seed, s.rounds),
    "client": lambda bundle, s: measure_client(bundle(), s.seed, s.rounds),
    "memory": lambda bundle, s: measure_memory(bundle(), s.seed, s.edge_calls, s.deferred_calls),
    "footprint": lambda bundle, s: measure_footprint(bundle(), s.starts),
    "drift": lambda _, s: measure_drift(s.seed, s.months, s.months),
    "outage": lambda bundle, s: measure_outages(bundle(), s.seed),
}


def measure(settings: RuntimeSettings) -> None:
    """Print the figures of the chosen groups, and write them if a file is named."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = cache(partial(small_cnn_bundle, Path(folder), settings.seed))
        groups = settings.only or RUNTIME_GROUPS
        measure_groups(
            {group: partial(_MEASURES[group], bundle, settings) for group in groups}, settings.out
        )
