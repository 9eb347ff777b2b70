"""The training loop of classifiers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from train.classifier.batches import EncodedData
from train.classifier.checkpoints import accuracy
from train.classifier.guards import Collapse
from train.data import LabelledData, Splits
from train.models import Checkpoint, save
from train.objectives import CrossEntropy, Objective, Step
from train.training.output import explain_full_disk, refuse_existing
from train.training.schedule import Schedule, move_to, training_arguments
from train.training.trainer_run import (
    DataWait,
    StopOnNaN,
    keep_batch,
    require_same_data,
    run,
    use_one_bar,
    work_folder,
)

# MERGEDOC train/trainer.py: 'The Hugging Face Trainer with an objective that may know more of a row than its label.'

Watcher = Callable[[EncodedData], TrainerCallback]


def train_checkpoint(
    checkpoint: Checkpoint,
    splits: Splits,
    objective: Objective,
    schedule: Schedule,
    *,
    out: Path,
    resume: bool,
    overwrite: bool,
    record: dict[str, Any],
    columns: Mapping[str, Tensor] | None = None,
    watchers: Sequence[Watcher] = (),
    guarded: bool = False,
) -> str | None:
    """Train and write the checkpoint folder `out`, with `training.json` beside the weights.

    Args:
        checkpoint: What to start from.
        splits: Trains on `train`, watches `validation`.
        objective: The loss.
        schedule: How long and how fast.
        out: The folder to write; the work is kept beside it until it is done.
        resume: Go on from the last epoch of an interrupted run.
        overwrite: Replace an existing folder.
        record: What else `training.json` says.
        columns: What the objective knows of each training row beside its label, each [n, ...].
        watchers: Make further callbacks of the encoded training data.
        guarded: End a run that collapses with the weights of its last good epoch.

    Returns:
        Why the guard ended the run, or None.

    Raises:
        OutputError: The folder is not empty.
        TrainingError: The loss became NaN or infinite, or the device's memory is too small.
        DeviceError: CUDA was asked for and is not there.
        FullDiskError: An epoch or the checkpoint could not be written.
        DataError: A run is resumed with other data.
    """
    refuse_existing(out, overwrite=overwrite)
    work = work_folder(out)
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    start = time.perf_counter()
    move_to(checkpoint, schedule.device)
    with explain_full_disk(out.parent):
        objective.attach(checkpoint.model)
        train = EncodedData(checkpoint, splits.train, columns, augment=schedule.augment)
        trainer = _trainer(checkpoint, train, splits.validation, objective, schedule, work)
        wait = DataWait()
        guard = Collapse(checkpoint.model, trainer.eval_dataset) if guarded else None
        for callback in (wait, *(watcher(train) for watcher in watchers), guard):
            if callback is not None:
                trainer.add_callback(callback)
        require_same_data(
            work, splits.fingerprint()
        )  # last, so that what is refused leaves no folder
        run(trainer, work, resume=resume)
    reason = None if guard is None else guard.conclude(checkpoint.model)
    objective.detach(checkpoint.model)
    checkpoint.model.eval()
    extra = {
        **record,
        **_measured(trainer, checkpoint, splits, schedule),
        "data_wait_share": round(wait.share, 4),
        "stopped": reason,
        "wall_time_s": round(time.perf_counter() - start, 2),
    }
    # With several processes one of them writes.
    if trainer.is_world_process_zero():
        _write(checkpoint, out, work, extra)
    return reason


def _measured(
    trainer: ObjectiveTrainer, checkpoint: Checkpoint, splits: Splits, schedule: Schedule
) -> dict[str, Any]:
    return {
        "epochs_run": round(trainer.state.epoch or 0),
        "validation_accuracy": accuracy(checkpoint, splits.validation),
        "augmentation": schedule.augment.kind if schedule.augment else "none",
        "device": str(trainer.args.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _write(checkpoint: Checkpoint, out: Path, work: Path, extra: dict[str, Any]) -> None:
    checkpoint.model.to("cpu")
    with explain_full_disk(out.parent):
        save(checkpoint, out, extra=extra)
    shutil.rmtree(work, ignore_errors=True)
    why = f"; {extra['stopped']}" if extra["stopped"] else ""
    print(
        f"{out}: validation accuracy {extra['validation_accuracy']:.4f} after "
        f"{extra['epochs_run']} epochs, {extra['wall_time_s']} s{why}",
        flush=True,
    )


def _trainer(
    checkpoint: Checkpoint,
    train: EncodedData,
    validation: LabelledData,
    objective: Objective,
    schedule: Schedule,
    work: Path,
) -> ObjectiveTrainer:
    callbacks: list[TrainerCallback] = [StopOnNaN()]
    if schedule.patience is not None:
        callbacks.append(EarlyStoppingCallback(schedule.patience))
    trainer = ObjectiveTrainer(
        objective,
        model=checkpoint.model,
        args=training_arguments(schedule, work, workers=train.workers),
        train_dataset=train,
        eval_dataset=EncodedData(checkpoint, validation),
        data_collator=keep_batch,
        callbacks=callbacks,
    )
    use_one_bar(trainer)
    return trainer


class ObjectiveTrainer(Trainer):
    """Trains with an objective; the validation loss is plain cross-entropy whatever it is.

    Args:
        objective: The loss.
        **settings: Those of `transformers.Trainer`.
    """

    def __init__(self, objective: Objective, **settings: Any) -> None:
        super().__init__(compute_loss_func=self._objective_loss, **settings)
        self._objective = objective
        self._columns: dict[str, Tensor] = {}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **settings: Any) -> Any:
        """Keep the columns from the model, which knows nothing of them."""
        self._columns = {n: inputs.pop(n) for n in self._objective.columns if n in inputs}
        return super().compute_loss(model, inputs, *args, **settings)

    def _get_num_items_in_batch(self, batch_samples: list[Any], *args: Any) -> Any:
        # Rows without a label are items as well: transformers counts labels, and would divide by 0.
        counted = [
            {**b, "labels": torch.zeros_like(b["labels"])} if b["labels"].ndim == 1 else b
            for b in batch_samples
        ]
        return super()._get_num_items_in_batch(counted, *args)

    def _objective_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
        items = len(labels) if num_items_in_batch is None else num_items_in_batch
        step = Step(outputs.logits, labels, self._columns, items)
        return (self._objective if self.model.training else CrossEntropy()).loss(step)
