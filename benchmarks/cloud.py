"""The command `python -m benchmarks cloud`: what the server of M_L does under load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edge_runtime.cli import field
from edge_runtime.errors import SettingError

CloudGroup = Literal["peer", "front", "overload", "drain", "connections", "soak"]
CLOUD_GROUPS: tuple[CloudGroup, ...] = get_args(CloudGroup)


@dataclass(frozen=True, kw_only=True)
class CloudSettings:
    """Print every figure of the server beside its peer and its limit, met or missed.

    All of it takes about 15 minutes on 2 cores, more than half of them for a million requests.

    Example: python -m benchmarks cloud --only front,overload --out cloud.json
    """

    only: tuple[CloudGroup, ...] = field(
        f"some of the groups {', '.join(CLOUD_GROUPS)}", default=()
    )
    peer_rounds: int = field("alternating rounds of the comparison with MLServer", default=12)
    rounds: int = field("alternating rounds of the comparison with a bare handler", default=60)
    overload_rounds: int = field("rounds of loads up to three times the capacity", default=3)
    drains: int = field("times that one of two servers is ended under load", default=8)
    connections: int = field("idle connections beside a busy one", default=2000)
    requests: int = field("requests while the server's memory is watched", default=1_000_000)
    seed: int = field("seed of weights, requests and the times of calls", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
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
        from benchmarks.cloud_figures import measure

        measure(self)
