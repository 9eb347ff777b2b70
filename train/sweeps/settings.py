"""The command `python -m train sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from train.sweeps.methods import AVERAGE, trainings


@dataclass(frozen=True, kw_only=True)
class SweepSettings(Command):
    """Train many settings over several seeds and compare them with the control, on one table.

    The untuned model and the control (the same steps of plain cross-entropy) always take part. A
    sweep that was interrupted goes on where it stopped when the same line is given again.

    Example: python -m train sweep --data digits --large runs/large --seeds 0,1,2 --out runs/sweep
    """

    data: str = field("data set name, folder or file", default="digits")
    model: str = field("M_S: architecture, or a folder with a config.json", default="small-cnn")
    large: Path = field("checkpoint folder of M_L")
    out: Path = field("folder of the sweep")
    teacher: Path | None = field(
        "checkpoint folder that stage 1 is distilled from; see train distill", default=None
    )
    methods: tuple[str, ...] = field(
        "ways of training, each with :ALPHA for a single alpha",
        default=("gatekeeper", "auxiliary:0.5", "label_smoothing", "cascade_aware"),
    )
    alphas: tuple[float, ...] = field(
        "weights of the right samples in Gatekeeper", default=(0.1, 0.3, 0.5, 0.7, 0.9)
    )
    seeds: tuple[int, ...] = field("training seeds", default=(0, 1, 2))
    deferral: float = field("deferral ratio that the user will run at", default=0.3)
    stage2_data: Literal["auto", "same", "augment", "holdout", "crossfit"] = field(
        "what all of them are tuned on; see train tune", default="auto"
    )
    fit_epochs: int = field("at most so many epochs of stage 1", default=60)
    patience: int = field("epochs of stage 1 without improvement before it stops", default=8)
    epochs: int = field("epochs of stage 2, all of them run", default=15)
    batch_size: int | None = field(
        "inputs a step (default: 32, or 128 from 10,000 inputs on)", default=None
    )
    learning_rate: float = field("peak learning rate of stage 1; stage 2 has half", default=3e-3)
    augment: Literal["auto", "none", "shift", "mirror", "shift+mirror"] = field(
        "augmentation of stage 1; see train fit", default="auto"
    )
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    jobs: int = field("processes that train side by side", default=1)
    limit: int | None = field("use at most so many inputs a split", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SettingError(f"expected different --seeds, got {list(self.seeds)}")
        if not 0.0 < self.deferral < 1.0:
            raise SettingError(f"expected --deferral in (0, 1), got {self.deferral}")
        for alpha in self.alphas:
            if not 0.0 <= alpha <= 1.0:
                raise SettingError(f"expected --alphas in [0, 1], got {alpha}")
        for name in ("fit_epochs", "patience", "epochs", "jobs", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise SettingError(f"expected --{flag} of at least 1, got {value}")
        if not self.learning_rate > 0:
            raise SettingError(f"expected --learning-rate above 0, got {self.learning_rate}")
        names = [training.name for training in trainings(self.methods, self.alphas)]
        if len(set(names)) != len(names):
            raise SettingError(f"expected each of --methods once, got {', '.join(names)}")
        if AVERAGE in names and len(self.seeds) < 2:  # noqa: PLR2004 - it is of two models
            raise SettingError(
                f"expected at least two --seeds beside --methods {AVERAGE}, got {list(self.seeds)}"
            )

    def run(self) -> None:
        """Train what is not trained yet, and write the table, the figures and the samples."""
        from train.sweeps.driver import run_sweep

        run_sweep(self)
