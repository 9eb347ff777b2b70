"""The command `python -m train tune`: stage 2, the Gatekeeper loss or its control."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from train.fit import check_training_settings


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Tune a fitted classifier so that it is sure where it is right and unsure where it is wrong.

    `--objective cross_entropy` is the control: the same start, steps and rates without Gatekeeper.

    Example: python -m train tune --checkpoint runs/small --data digits --out runs/tuned
    """

    checkpoint: Path = field("checkpoint folder to start from")
    data: str = field("data set name, folder or file", default="digits")
    extra: str | None = field(
        "data set whose training rows are added to train, e.g. of `train harvest`", default=None
    )
    out: Path = field("checkpoint folder to write")
    objective: Literal["gatekeeper", "cross_entropy"] = field(
        "gatekeeper, or cross_entropy for the control", default="gatekeeper"
    )
    alpha: float = field("weight of the right samples, in [0, 1]", default=0.5)
    epochs: int = field("epochs, all of them run", default=15)
    batch_size: int | None = field(
        "inputs a step (default: 32, or 128 from 10,000 inputs on)", default=None
    )
    accumulation: int = field("steps summed before an update", default=1)
    learning_rate: float = field("peak learning rate", default=1.5e-3)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        "auto, fp32, bf16 or fp16; auto is bf16 on CUDA", default="auto"
    )
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    seed: int = field("seed of the order", default=0)
    limit: int | None = field("use at most so many pictures a split", default=None)
    resume: bool = field("go on from the last epoch of an interrupted run", default=False)
    overwrite: bool = field("replace the checkpoint folder", default=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise SettingError(f"expected --alpha in [0, 1], got {self.alpha}")
        check_training_settings(self)

    def run(self) -> None:
        """Tune, and write the checkpoint."""
        from train import data
        from train.loop import Schedule, train_checkpoint, usual_batch_size
        from train.matching import open_for
        from train.objectives import CrossEntropy, Gatekeeper
        from train.output import settings_record

        splits = data.load(self.data, limit=self.limit)
        checkpoint = open_for(self.checkpoint, splits.train, self.data)
        splits = data.with_extra(splits, self.extra, limit=self.limit)
        train_checkpoint(
            checkpoint,
            splits,
            Gatekeeper(self.alpha) if self.objective == "gatekeeper" else CrossEntropy(),
            Schedule(
                epochs=self.epochs,
                batch_size=self.batch_size or usual_batch_size(len(splits.train)),
                accumulation=self.accumulation,
                learning_rate=self.learning_rate,
                weight_decay=0.0,
                scheduler="cosine",
                precision=self.precision,
                device=self.device,
                seed=self.seed,
            ),
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            record=settings_record("tune", self),
        )
