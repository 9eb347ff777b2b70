"""Who is right, for the Gatekeeper loss: as eval mode sees it, or models that never saw the input.

The batch's own logits are of train mode, and of pictures that M_S may know by heart. A model that
is right on all it was trained on has nothing to learn doubt from; predictions of models that were
fitted without the input do not have this flaw.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainerCallback

from train.classifier.batches import EncodedData
from train.classifier.checkpoints import right_of
from train.classifier.guards import predictions
from train.classifier.loop import train_checkpoint
from train.data import LabelledData, Splits
from train.models import Checkpoint, open_checkpoint
from train.objectives import CrossEntropy
from train.objectives.basic import RIGHT
from train.training.schedule import Schedule, move_to

FOLDS = 3
_EPOCHS = 20


class EvalModeRight(TrainerCallback):
    """Refreshes the column `right` at the start of every epoch, in eval mode.

    Args:
        train: The training data, with a column `right` that is overwritten in place.
    """

    def __init__(self, train: EncodedData) -> None:
        self._train = train

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Look at every training input once."""
        right = predictions(model, self._train) == self._train.labels
        self._train.column(RIGHT).copy_(torch.from_numpy(right))


def out_of_fold_right(
    start: Checkpoint, data: LabelledData, schedule: Schedule, work: Path
) -> npt.NDArray[np.bool_]:
    """Return bool [n]: is an input right by a model of the same kind that never saw it?

    Args:
        start: The checkpoint to be tuned; its architecture is fitted anew on every fold.
        data: The training split.
        schedule: Batch size, device and seed; epochs are those that the start was fitted for.
        work: Folder of the fold models, kept until the caller removes it, so that a killed run
            goes on with them.
    """
    fold = np.random.default_rng(schedule.seed).permutation(len(data)) % FOLDS
    right = np.zeros(len(data), np.bool_)
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        path = work / f"fold-{k}"
        if not (path / "model.safetensors").is_file():
            splits = Splits(data.take(inside), data.take(outside), data.take(outside))
            _fit_fold(_fresh(start, schedule.seed + k), splits, _as_fitted(start, schedule), path)
        fitted = move_to(open_checkpoint(path, kind=start.kind), schedule.device)
        right[outside] = right_of(fitted, data.take(outside))
    return right


def _fresh(start: Checkpoint, seed: int) -> Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = type(start.model)(copy.deepcopy(start.model.config))
    return Checkpoint(model, start.processor, start.labels, None, start.kind)


def _as_fitted(start: Checkpoint, schedule: Schedule) -> Schedule:
    record: dict[str, Any] = {}
    file = None if start.path is None else start.path / "training.json"
    if file is not None and file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
    settings = record.get("settings", {})
    return Schedule(
        epochs=int(record.get("epochs_run") or _EPOCHS),
        batch_size=schedule.batch_size,
        learning_rate=float(settings.get("learning_rate", 2 * schedule.learning_rate)),
        weight_decay=float(settings.get("weight_decay", 1e-4)),
        scheduler="cosine",
        precision=schedule.precision,
        device=schedule.device,
        seed=schedule.seed,
    )


def _fit_fold(checkpoint: Checkpoint, splits: Splits, schedule: Schedule, path: Path) -> None:
    train_checkpoint(
        checkpoint,
        splits,
        CrossEntropy(),
        schedule,
        out=path,
        resume=True,
        overwrite=True,
        record={"command": "crossfit"},
    )
