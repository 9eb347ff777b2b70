"""Right and wrong for the Gatekeeper loss, from eval mode or from models that never saw the input.

By default the batch's own logits decide, in train mode and on pictures that M_S may know by heart.
A model that is right on everything it was trained on has no doubt to learn; the predictions of
models that were fitted without the input do not have this flaw.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainerCallback

from edge_runtime.reading import read_json
from train.classifier.batches import EncodedData
from train.classifier.checkpoints import right_of
from train.classifier.loop import train_checkpoint
from train.data import LabelledData, Splits
from train.errors import CheckpointError
from train.models import Checkpoint, open_checkpoint
from train.objectives import CrossEntropy
from train.objectives.basic import RIGHT
from train.training.schedule import Schedule, move_to

FOLDS = 3
_EPOCHS = 20


class EvalModeRight(TrainerCallback):
    """Refreshes the column `right` in eval mode at the start of every epoch.

    Args:
        train: The training data, with a column `right` that is overwritten in place.
    """

    def __init__(self, train: EncodedData) -> None:
        self._train = train

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Predict every training input once."""
        right = self._train.predict(model) == self._train.labels
        self._train.column(RIGHT).copy_(torch.from_numpy(right))


def out_of_fold_right(
    start: Checkpoint, data: LabelledData, schedule: Schedule, work: Path
) -> npt.NDArray[np.bool_]:
    """Return bool [n]: whether a model of the same kind that never saw the input gets it right.

    Args:
        start: The checkpoint to be tuned; its architecture is fitted anew on every fold.
        data: The training split.
        schedule: Source of batch size, device and seed; the epochs are those of the start's fit.
        work: Folder of the fold models. The caller removes it, so a killed run continues with them.
    """
    fold = np.random.default_rng(schedule.seed).permutation(len(data)) % FOLDS
    right = np.zeros(len(data), np.bool_)
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        path = work / f"fold-{k}"
        if not (path / "model.safetensors").is_file():
            splits = Splits(data.take(inside), data.take(outside), data.take(outside))
            train_checkpoint(
                _untrained(start, schedule.seed + k),
                splits,
                CrossEntropy(),
                _schedule_of(start, schedule),
                out=path,
                resume=True,
                overwrite=True,
                record={"command": "crossfit"},
            )
        fitted = move_to(open_checkpoint(path, kind=start.kind), schedule.device)
        right[outside] = right_of(fitted, data.take(outside))
    return right


def _untrained(start: Checkpoint, seed: int) -> Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = type(start.model)(copy.deepcopy(start.model.config))
    return Checkpoint(model, start.processor, start.labels, None, start.kind)


def _schedule_of(start: Checkpoint, schedule: Schedule) -> Schedule:
    """Return the schedule that the start was fitted with, as far as its record is known."""
    file = None if start.path is None else start.path / "training.json"
    try:
        record: dict[str, Any] = read_json(file) if file is not None and file.is_file() else {}
        settings = record.get("settings", {})
        return dataclasses.replace(
            schedule,
            epochs=int(record.get("epochs_run") or _EPOCHS),
            accumulation=1,
            learning_rate=float(settings.get("learning_rate", 2 * schedule.learning_rate)),
            weight_decay=float(settings.get("weight_decay", 1e-4)),
            compile=False,
        )
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"expected the record of a training at {file}, it is damaged ({error}): remove it"
        ) from None
