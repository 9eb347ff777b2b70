"""The command `python -m benchmarks runtime`: what the runtime costs beside its bare libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_runtime.cli import field
from edge_runtime.errors import SettingError

Group = Literal["calls", "client", "memory", "footprint", "drift", "outage"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
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
        for name in ("rounds", "edge_calls", "deferred_calls", "starts", "months"):
            if getattr(self, name) < 1:
                flag = f"--{name.replace('_', '-')}"
                raise SettingError(f"expected {flag} of at least 1, got {getattr(self, name)}")
        # Minutes later would be a bad moment to find out.
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError(f"expected a folder that is there for --out, got {self.out}")

    def run(self) -> None:
        """Print a line a figure as soon as it is measured."""
        from benchmarks.runtime_figures import measure

        measure(self)
