"""The command `python -m benchmarks quantization`: what each way of storing the weights costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import field
from edge_runtime.errors import SettingError

KINDS = ("none", "fp16", "int8", "int8-dynamic", "int4")


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """Export a checkpoint in every precision, and compare size, time, accuracy and decisions.

    Every bundle is calibrated on the validation split as it ships; accuracy, deferral ratio and
    flips are of the test split. A precision that the graph cannot take is left out with the reason.

    Example: python -m benchmarks quantization --checkpoint runs/small --data digits
    """

    checkpoint: Path = field("checkpoint folder")
    data: str = field("data set to calibrate and test on", default="digits")
    kinds: tuple[str, ...] = field("precisions", default=KINDS)
    target_deferral: float = field("deferral ratio to calibrate for", default=0.3)
    rounds: int = field("alternating rounds of the timing", default=20)
    threads: int | None = field("threads of one run (default: all cores)", default=None)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or "none" not in self.kinds:
            raise SettingError(
                f"expected --kinds among {', '.join(KINDS)}, none (the float graph) with them, got "
                f"{', '.join(self.kinds)}"
            )
        if not 0.0 < self.target_deferral < 1.0:
            raise SettingError(f"expected --target-deferral in (0, 1), got {self.target_deferral}")
        if self.rounds < 1:
            raise SettingError(f"expected --rounds of at least 1, got {self.rounds}")

    def run(self) -> None:
        """Print the table, and write it where asked."""
        from benchmarks.quantization_figures import measure

        measure(self)
