"""The command `python -m benchmarks harvest`: what M_S gains from what it deferred."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import field
from edge_runtime.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class HarvestBenchmarkSettings:
    """Record what M_S defers of a stream, harvest it, tune with it, and print what the user gets.

    Beside `tuned` stand M_S as it was (`untuned`), as many steps without the harvest (`control`),
    and with as many pictures of the stream picked at random (`random`). All labels of the stream
    are M_L's. A stream that M_L was trained on flatters it.

    Example: python -m benchmarks harvest --large runs/large --out runs/harvest-digits
    """

    dataset: str = field("data set of M_S: name, folder or file", default="digits")
    stream: str = field("data set whose training pictures the device sees", default="digits-more")
    small: str = field("architecture of M_S", default="small-cnn")
    large: Path = field("checkpoint folder of M_L")
    objective: Literal["cross_entropy", "gatekeeper"] = field(
        "what is tuned with", default="gatekeeper"
    )
    epochs: int = field("epochs of tuning with the harvest", default=15)
    target_deferral: float = field("deferral ratio to calibrate for", default=0.3)
    seeds: tuple[int, ...] = field("training seeds", default=(0, 1, 2))
    out: Path = field("result folder", default=Path("runs/harvest"))
    overwrite: bool = field("replace the result folder", default=False)

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise SettingError(f"expected --epochs of at least 1, got {self.epochs}")
        if not 0 < self.target_deferral < 1:
            raise SettingError(f"expected --target-deferral in (0, 1), got {self.target_deferral}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SettingError(f"expected different --seeds, got {list(self.seeds)}")

    def run(self) -> None:
        """Run the round and write the result folder."""
        from benchmarks.harvest_round import run_round

        run_round(self)
