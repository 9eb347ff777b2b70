"""The command `python -m benchmarks cloud`: what the server of M_L does under load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, get_args

from benchmarks.figures import Figure, in_folder, measure_groups
from benchmarks.serving.connections import connection_figures
from benchmarks.serving.drain import drain_figures
from benchmarks.serving.front import front_figures, soak_figures
from benchmarks.serving.overload import overload_figures
from benchmarks.serving.peer import peer_figures
from benchmarks.untrained import small_cnn_bundle
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

# MERGEDOC benchmarks/cloud_figures.py: 'Measures the figures of `cloud`, a group at a time.'

CloudGroup = Literal["peer", "front", "overload", "drain", "connections", "soak"]
CLOUD_GROUPS: tuple[CloudGroup, ...] = get_args(CloudGroup)

_MEASURES: Final[dict[CloudGroup, Callable[[Path, CloudSettings], list[Figure]]]] = {
    "peer": lambda folder, s: peer_figures(folder, s.seed, s.peer_rounds),
    "front": lambda folder, s: front_figures(folder, s.seed, s.rounds),
    "overload": lambda folder, s: overload_figures(folder, s.seed, s.overload_rounds),
    "drain": lambda folder, s: drain_figures(small_cnn_bundle(folder, s.seed), s.seed, s.drains),
    "connections": lambda folder, s: connection_figures(folder, s.seed, s.connections),
    "soak": lambda folder, s: soak_figures(folder, s.seed, s.requests),
}


@dataclass(frozen=True, kw_only=True)
class CloudSettings(Command):
    """Print every figure of the server beside its peer and its limit, met or missed.

    All of it takes about 15 minutes on 2 cores, more than half of them for a million requests.

    Example: python -m benchmarks cloud --only front,overload --out cloud.json
    """

    only: tuple[CloudGroup, ...] = field(
        f"some of the groups {', '.join(CLOUD_GROUPS)}", default=()
    )
    peer_rounds: int = field("alternating rounds of the comparison with MLServer", default=8)
    rounds: int = field("alternating rounds of the comparison with a bare handler", default=60)
    overload_rounds: int = field("rounds of loads up to three times the capacity", default=3)
    drains: int = field("times that one of two servers is ended under load", default=8)
    connections: int = field("idle connections beside a busy one", default=2000)
    requests: int = field("requests while the server's memory is watched", default=1_000_000)
    seed: int = field("seed of weights, requests and the times of calls", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "peer_rounds",
            "rounds",
            "overload_rounds",
            "drains",
            "connections",
            "requests",
        ):
            if getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise SettingError(f"expected {flag} of at least 1, got {getattr(self, name)}")
        # Minutes later would be a bad moment to find out.
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError(f"expected a folder that is there for --out, got {self.out}")

    def run(self) -> None:
        """Print a line a figure as soon as it is measured."""
        measure(self)


def measure(settings: CloudSettings) -> None:
    """Print every figure, and write them where asked."""
    groups = settings.only or CLOUD_GROUPS
    measure_groups(
        {group: partial(in_folder, _MEASURES[group], settings) for group in groups}, settings.out
    )
