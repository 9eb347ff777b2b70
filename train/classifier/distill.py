"""The command `python -m train distill`: stage 1 from a teacher."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime import contract
from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from train.classifier.fit import FitSettings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from train.data import Splits

_TEMPERATURE = 4.0
_ADDRESS = re.compile(r"(\[[^\]]+\]|[^/\\:]+):\d+")


@dataclass(frozen=True, kw_only=True)
class DistillSettings(FitSettings):
    """Fit a classifier to a teacher's answers (Hinton et al. 2015), and to labels where there are.

    The teacher is a checkpoint, or a running server (cloud_stub, or another that speaks the Open
    Inference Protocol), whose answers hold a class and a confidence: the rest of the probability is
    then spread evenly over the other classes, at temperature 1. What the teacher said is kept
    beside --out until the student is written, so an interrupted run does not ask twice.

    Example: python -m train distill --teacher runs/large --data digits --unlabelled digits-more
    --out runs/small
    """

    teacher: str = field("checkpoint folder, or HOST:PORT of a running server")
    teacher_model: str = field("the teacher's name on the server", default=contract.DEFAULT_MODEL)
    unlabelled: str | None = field(
        "folder of pictures, table or data set that is added without labels", default=None
    )
    temperature: float | None = field(
        "softens both answers (default: 4; always 1 with a server)", default=None
    )
    weight: float = field("share of the teacher's part of the loss, in [0, 1]", default=0.9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and not 0.0 < self.temperature < math.inf:
            raise SettingError(f"expected --temperature over 0, got {self.temperature}")
        if not 0.0 <= self.weight <= 1.0:
            raise SettingError(f"expected --weight in [0, 1], got {self.weight}")
        if self._asks_server() and self.temperature not in {None, 1.0}:
            raise SettingError(
                f"expected --temperature 1 or none with a server, got {self.temperature}: its "
                "answers hold no logits to soften, take its checkpoint as --teacher"
            )
        if self.weight == 0.0 and self.unlabelled:
            raise SettingError(
                "expected --weight over 0 beside --unlabelled, got 0: inputs without labels are "
                "learnt from the teacher alone"
            )

    def run(self) -> None:
        """Ask the teacher, fit, and write the checkpoint."""
        self.fit(self.splits())

    def fit(self, labelled: Splits) -> None:
        """Ask the teacher and fit on splits that are loaded already; write the checkpoint."""
        import torch

        from train import data
        from train.classifier.loop import train_checkpoint
        from train.classifier.teacher import cache_file
        from train.objectives import Distillation
        from train.objectives.basic import TEACHER
        from train.training.output import refuse_existing, settings_record

        # Asking the teacher may take long: what would stop the training stops it first.
        refuse_existing(self.out, overwrite=self.overwrite)
        splits = data.with_unlabelled(labelled, self.unlabelled, limit=self.limit)
        student = self.untrained(splits)
        logits = self._ask(splits)
        _print_teacher(logits, splits, len(labelled.train))
        train_checkpoint(
            student,
            splits,
            Distillation(self._temperature(), self.weight),
            self.schedule(splits.train),
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
            record=settings_record("distill", self),
            columns={TEACHER: torch.from_numpy(logits)},
        )
        cache_file(self.out).unlink(missing_ok=True)

    def _temperature(self) -> float:
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self._asks_server() else _TEMPERATURE

    def _asks_server(self) -> bool:
        return _ADDRESS.fullmatch(self.teacher) is not None and not Path(self.teacher).exists()

    def _ask(self, splits: Splits) -> npt.NDArray[np.float32]:
        from train.classifier.teacher import (
            cache_file,
            open_checkpoint_teacher,
            open_server,
            teacher_logits,
        )

        rows = splits.train
        if self._asks_server():
            with open_server(self.teacher, self.teacher_model, rows) as server:
                return teacher_logits(server, rows, cache_file(self.out))
        checkpoint = open_checkpoint_teacher(self.teacher, rows, device=self.device)
        return teacher_logits(checkpoint, rows, cache_file(self.out))


def _print_teacher(logits: npt.NDArray[np.float32], splits: Splits, labelled: int) -> None:
    labels = splits.train.labels[:labelled]
    agreed = float((logits[:labelled].argmax(axis=-1) == labels).mean())
    print(
        f"teacher: agrees with {agreed:.4f} of {labelled} labels, teaches "
        f"{len(splits.train) - labelled} inputs without one",
        flush=True,
    )
