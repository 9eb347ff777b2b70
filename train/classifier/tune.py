"""The command `python -m train tune`: stage 2, the Gatekeeper loss or a rival."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError
from train.classifier.fit import AUGMENT_HELP, Augmentation, check_training_settings

_ABSTAINING = ("deep_gamblers", "self_adaptive")


@dataclass(frozen=True, kw_only=True)
class TuneSettings(Command):
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
    objective: Literal[
        "gatekeeper",
        "cross_entropy",
        "label_smoothing",
        "cascade_aware",
        "deep_gamblers",
        "self_adaptive",
    ] = field(
        "gatekeeper, cross_entropy (the control), label_smoothing, cascade_aware, deep_gamblers or "
        "self_adaptive",
        default="gatekeeper",
    )
    alpha: float = field("Gatekeeper: weight of the right samples, in [0, 1]", default=0.5)
    smoothing: float = field("label_smoothing: share spread over all classes", default=0.1)
    payoff: float = field(
        "deep_gamblers: what a right bet pays, over 1 and at most the number of classes; the "
        "greater, the less is abstained",
        default=2.2,  # the paper's for the ten classes of CIFAR-10
    )
    momentum: float = field(
        "self_adaptive: share of a soft target that stays each time its row comes, in [0, 1)",
        # The paper takes 0.99 from random weights on: over the 15 epochs here that would move no
        # target by more than 0.14.
        default=0.9,
    )
    head: Literal["shared", "auxiliary"] = field(
        "auxiliary: cross-entropy on the model's head, the objective on a second one that is "
        "dropped after training",
        default="shared",
    )
    stage2_data: Literal["auto", "same", "augment", "holdout", "crossfit"] = field(
        "what to tune on: the training data as they are (same) or augmented, half of validation "
        "(holdout), or the training data judged by models that never saw them (crossfit); auto "
        "looks at the training accuracy",
        default="auto",
    )
    correctness: Literal["train", "eval"] = field(
        "who is right: by the batch's own logits (train), or by eval mode once an epoch",
        default="train",
    )
    large: Path | None = field(
        "checkpoint folder of M_L, for cascade_aware and to say what the user gets", default=None
    )
    guard: bool = field("stop a run that collapses; --guard=false to let it", default=True)
    epochs: int = field("epochs, all of them run", default=15)
    batch_size: int | None = field(
        "inputs a step (default: 32, or 128 from 10,000 inputs on)", default=None
    )
    accumulation: int = field("steps summed before an update", default=1)
    learning_rate: float = field("peak learning rate", default=1.5e-3)
    augment: Augmentation = field(f"for --stage2-data augment: {AUGMENT_HELP}", default="auto")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        "auto, fp32, bf16 or fp16; auto is bf16 on CUDA", default="auto"
    )
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    compile: bool = field("compile the model with torch.compile first", default=False)
    seed: int = field("seed of the order", default=0)
    limit: int | None = field("use at most so many pictures a split", default=None)
    resume: bool = field("go on from the last epoch of an interrupted run", default=False)
    overwrite: bool = field("replace the checkpoint folder", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.alpha <= 1.0:
            raise SettingError(f"expected --alpha in [0, 1], got {self.alpha}")
        if not 0.0 <= self.smoothing < 1.0:
            raise SettingError(f"expected --smoothing in [0, 1), got {self.smoothing}")
        if not 1.0 < self.payoff < math.inf:
            raise SettingError(f"expected --payoff over 1, got {self.payoff}")
        if not 0.0 <= self.momentum < 1.0:
            raise SettingError(f"expected --momentum in [0, 1), got {self.momentum}")
        if self.head == "auxiliary" and self.objective in _ABSTAINING:
            raise SettingError(
                f"expected --head shared beside --objective {self.objective}, got auxiliary: its "
                "abstention logit goes with the classes of the model's own head"
            )
        if self.objective == "cascade_aware" and self.large is None:
            raise SettingError(
                "expected --large beside --objective cascade_aware: it has to know where M_L is "
                "right"
            )
        if self.objective != "gatekeeper" and self.correctness != "train":
            raise SettingError(
                f"expected --objective gatekeeper beside --correctness eval, got {self.objective}"
            )
        if self.augment != "auto" and self.stage2_data not in {"auto", "augment"}:
            raise SettingError(
                f"expected --stage2-data augment beside --augment, got {self.stage2_data}"
            )
        check_training_settings(self)

    def run(self) -> None:
        """Tune, and write the checkpoint."""
        from train import data
        from train.classifier.checkpoints import LargeAnswers, open_for
        from train.classifier.stage2 import tune
        from train.training.schedule import move_to

        splits = data.load(self.data, limit=self.limit)
        start = open_for(self.checkpoint, splits.train, self.data)
        splits = data.with_extra(splits, self.extra, limit=self.limit)
        large = None
        if self.large is not None:
            model = move_to(open_for(self.large, splits.train, self.data), self.device)
            asked = [splits.validation]
            if self.objective == "cascade_aware":
                asked.append(splits.train)
            large = LargeAnswers.of(model, *asked)
        tune(self, start, splits, large)
