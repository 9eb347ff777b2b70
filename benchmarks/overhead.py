"""The command `python -m benchmarks overhead`: what gate and loss cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import field


@dataclass(frozen=True, kw_only=True)
class OverheadSettings:
    """Print what the gate in the graph and the loss in training cost beside their bare peers.

    Example: python -m benchmarks overhead --out overhead.json
    """

    rounds: int = field("alternating rounds of each comparison", default=60)
    seed: int = field("seed of the SmallCNN's weights and the picture", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def run(self) -> None:
        """Print a line a figure: measured, limit, met or missed."""
        from benchmarks.overhead_figures import measure

        measure(self)
