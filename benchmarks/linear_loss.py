"""The command `python -m benchmarks linear-loss`: what the loss from hidden states costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import field
from edge_runtime.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class LinearLossSettings:
    """Print memory and time of the linear Gatekeeper loss beside losses on dense logits.

    On CUDA in bfloat16 and float32, and beside Liger's fused linear cross-entropy where
    liger-kernel is installed.

    Example: python -m benchmarks linear-loss --out linear-loss.json
    """

    vocabulary: int = field("rows of the output layer", default=256_000)
    hidden: int = field("width of the hidden states", default=1024)
    tokens: int = field("positions in the loss", default=2048)
    rounds: int = field("alternating rounds of timing, and processes for memory", default=5)
    device: Literal["cpu", "cuda"] = field("where to measure", default="cpu")
    seed: int = field("seed of the inputs", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        for name in ("vocabulary", "hidden", "tokens", "rounds"):
            if getattr(self, name) < 1:
                raise SettingError(f"expected --{name} of at least 1, got {getattr(self, name)}")
        # Minutes later would be a bad moment to find out.
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError(f"expected a folder that is there for --out, got {self.out}")

    def run(self) -> None:
        """Print a line a figure: measured, limit, met or missed."""
        from benchmarks.linear_loss_figures import measure

        measure(self)
