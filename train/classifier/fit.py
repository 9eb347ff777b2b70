"""The command `python -m train fit`: stage 1, cross-entropy to a validation plateau."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

if TYPE_CHECKING:
    from train.data import LabelledData, Splits
    from train.models import Checkpoint
    from train.training.schedule import Schedule

_COUNTS = (
    "epochs",
    "steps",
    "batch_size",
    "patience",
    "accumulation",
    "limit",
    "image_size",
    "lora",
)
Augmentation = Literal["auto", "none", "shift", "mirror", "shift+mirror"]
AUGMENT_HELP = (
    "auto, none, shift, mirror or shift+mirror of training pictures; auto takes shift+mirror for "
    "colour and shift for grey pictures"
)


@dataclass(frozen=True, kw_only=True)
class FitSettings(Command):
    """Fit a classifier with cross-entropy until its validation loss stops falling.

    Example: python -m train fit --model small-cnn --data digits --out runs/small
    """

    model: str = field("architecture, or a folder with a config.json", default="small-cnn")
    data: str = field("data set name, folder or file", default="digits")
    extra: str | None = field("data set whose training rows are added to train", default=None)
    out: Path = field("checkpoint folder to write")
    image_size: int | None = field("side in pixels (default: the data's own)", default=None)
    epochs: int = field("at most so many epochs", default=60)
    patience: int = field("epochs without improvement before it stops", default=8)
    batch_size: int | None = field(
        "inputs a step (default: 32, or 128 from 10,000 inputs on)", default=None
    )
    learning_rate: float = field("peak learning rate", default=3e-3)
    weight_decay: float = field("weight decay", default=1e-4)
    augment: Augmentation = field(AUGMENT_HELP, default="auto")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        "auto, fp32, bf16 or fp16; auto is bf16 on CUDA", default="auto"
    )
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    compile: bool = field("compile the model with torch.compile first", default=False)
    seed: int = field("seed of weights and order", default=0)
    limit: int | None = field("use at most so many pictures a split", default=None)
    resume: bool = field("go on from the last epoch of an interrupted run", default=False)
    overwrite: bool = field("replace the checkpoint folder", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_training_settings(self)

    def run(self) -> None:
        """Fit, and write the checkpoint."""
        self.fit(self.splits())

    def fit(self, splits: Splits) -> None:
        """Fit on splits that are loaded already, and write the checkpoint."""
        from train.classifier.loop import train_checkpoint
        from train.objectives import CrossEntropy
        from train.training.output import settings_record

        train_checkpoint(
            self.untrained(splits),
            splits,
            CrossEntropy(),
            self.schedule(splits.train),
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            record=settings_record("fit", self),
        )

    def splits(self) -> Splits:
        """Return the data set, with what is added to its training split.

        Raises:
            DataError: One of them is missing or unreadable, or they do not belong together.
        """
        from train import data

        splits = data.load(self.data, limit=self.limit)
        return data.with_extra(splits, self.extra, limit=self.limit)

    def schedule(self, train: LabelledData) -> Schedule:
        """Return how long and how fast to train on these data."""
        from train.training.augment import choose
        from train.training.schedule import Schedule, default_batch_size

        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size or default_batch_size(len(train)),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            scheduler="cosine",
            patience=self.patience,
            precision=self.precision,
            device=self.device,
            compile=self.compile,
            seed=self.seed,
            augment=choose(self.augment, train, self.seed),
        )

    def untrained(self, splits: Splits) -> Checkpoint:
        """Return the model that is fitted, as it is before.

        Raises:
            CheckpointError: There is no such architecture.
            DataError: It takes another kind of input than the data set holds.
        """
        from train.errors import DataError
        from train.models import build

        size, kind = (self.image_size or 1, self.image_size or 1), splits.train.kind
        if kind == "image" and not self.image_size:
            size = splits.train.inputs[0].shape[:2]
        checkpoint = build(self.model, labels=splits.label_names, image_size=size, seed=self.seed)
        if checkpoint.kind != kind:
            raise DataError(
                f"expected {checkpoint.kind}s for {self.model}, {self.data} holds {kind}s"
            )
        return checkpoint


def check_training_settings(settings: Any) -> None:
    """Raise `SettingError` for a training setting that has no sense."""
    for name in _COUNTS:
        value = getattr(settings, name, None)
        if value is not None and value < 1:
            raise SettingError(f"expected --{name.replace('_', '-')} of at least 1, got {value}")
    if settings.learning_rate is not None and not settings.learning_rate > 0:
        raise SettingError(f"expected --learning-rate above 0, got {settings.learning_rate}")
