"""The command `python -m benchmarks runtime`: what the runtime costs beside its bare libraries."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

from benchmarks.figures import Figure, measure_groups
from benchmarks.runtime.calls import call_figures
from benchmarks.runtime.client import client_figures
from benchmarks.runtime.drift import drift_figures
from benchmarks.runtime.footprint import footprint_figures
from benchmarks.runtime.memory import memory_figures
from benchmarks.runtime.outage import outage_figures
from benchmarks.untrained import small_cnn_bundle
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

# MERGEDOC benchmarks/runtime_figures.py: 'Measures the figures of `runtime`, a group at a time.'

Group = Literal["calls", "client", "memory", "footprint", "drift", "outage"]
GROUPS: tuple[Group, ...] = get_args(Group)

_MEASURES: Final[dict[Group, Callable[[Path, RuntimeSettings], list[Figure]]]] = {
    "calls": lambda bundle, s: call_figures(bundle, s.seed, s.rounds),
    "client": lambda bundle, s: client_figures(bundle, s.seed, s.rounds),
    "memory": lambda bundle, s: memory_figures(bundle, s.seed, s.edge_calls, s.deferred_calls),
    "footprint": lambda bundle, s: footprint_figures(bundle, s.starts),
    "drift": lambda _, s: drift_figures(s.seed, s.months, s.months),
    "outage": lambda bundle, s: outage_figures(bundle, s.seed),
}


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings(Command):
    """Print every figure of the runtime beside its bare peer and its limit, met or missed.

    Example: python -m benchmarks runtime --only calls,client --out runtime.json
    """

    only: tuple[Group, ...] = field(f"some of the groups {', '.join(GROUPS)}", default=())
    rounds: int = field("alternating rounds of each comparison of calls", default=60)
    edge_calls: int = field("calls answered on the edge while memory is watched", default=1_000_000)
    deferred_calls: int = field("deferred calls while memory is watched", default=100_000)
    starts: int = field("processes started for each figure of start and memory", default=9)
    months: int = field("months simulated without a drift, and drifts", default=1_000)
    seed: int = field("seed of weights, pictures and simulated calls", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rounds", "edge_calls", "deferred_calls", "starts", "months"):
            if getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise SettingError(f"expected {flag} of at least 1, got {getattr(self, name)}")
        # Minutes later would be a bad moment to find out.
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError(f"expected a folder that is there for --out, got {self.out}")

    def run(self) -> None:
        """Print a line a figure as soon as it is measured."""
        measure(self)


def measure(settings: RuntimeSettings) -> None:
    """Print every figure, and write them where asked."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = small_cnn_bundle(Path(folder), settings.seed)
        groups = settings.only or GROUPS
        measure_groups(
            {group: partial(_MEASURES[group], bundle, settings) for group in groups}, settings.out
        )
