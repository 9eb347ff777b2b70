"""Trains a classifier with an objective, and writes the checkpoint."""

from __future__ import annotations

import copy
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
from train.data import LabelledData, Splits
from train.models import Checkpoint, save
from train.objectives import CrossEntropy, Objective, Step
from train.training.health import Health
from train.training.output import (
    explain_full_disk,
    refuse_existing,
    require_same_data,
    work_folder,
)
from train.training.schedule import Schedule, move_to, training_arguments
from train.training.trainer_run import (
    DataWait,
    StopOnNaN,
    keep_batch,
    run,
    use_one_bar,
)

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
    """Train and write the checkpoint folder `out`, with `training.json` next to the weights.

    Args:
        checkpoint: The model to start from.
        splits: Trained on `train`, watched on `validation`.
        objective: The loss.
        schedule: Length and rate of the training.
        out: The folder to write; until then the work is kept next to it.
        resume: Continue an interrupted run after its last epoch.
        overwrite: Replace an existing folder.
        record: Further entries of `training.json`.
        columns: What the objective knows of each training row besides its label, each [n, ...].
        watchers: Make further callbacks from the encoded training data.
        guarded: End a run that collapses, with the weights of its last good epoch.

    Returns:
        Why the guard ended the run, or None.

    Raises:
        OutputError: The folder is not empty.
        TrainingError: The loss became NaN or infinite, or the device's memory is too small.
        DeviceError: CUDA was asked for and there is none.
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
        # Last, so that a run that is refused leaves no folder.
        require_same_data(work, splits.fingerprint())
        run(trainer, work, resume=resume)
    reason = None if guard is None else guard.conclude(checkpoint.model)
    objective.detach(checkpoint.model)
    checkpoint.model.eval()
    extra = {
        **record,
        **_measurements(trainer, checkpoint, splits, schedule),
        "data_wait_share": round(wait.share, 4),
        "stopped": reason,
        "wall_time_s": round(time.perf_counter() - start, 2),
    }
    # Of several processes only one writes.
    if trainer.is_world_process_zero():
        _write(checkpoint, out, work, extra)
    return reason


def _measurements(
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
    """A Trainer whose training loss is an objective; its validation loss is always cross-entropy.

    Args:
        objective: The loss.
        **settings: Arguments of `transformers.Trainer`.
    """

    def __init__(self, objective: Objective, **settings: Any) -> None:
        super().__init__(compute_loss_func=self._objective_loss, **settings)
        self._objective = objective
        self._columns: dict[str, Tensor] = {}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **settings: Any) -> Any:
        """Keep the columns from the model, which does not know them."""
        self._columns = {n: inputs.pop(n) for n in self._objective.columns if n in inputs}
        return super().compute_loss(model, inputs, *args, **settings)

    def _get_num_items_in_batch(self, batch_samples: list[Any], *args: Any) -> Any:
        # Rows without a label are items too: transformers counts labels, and would divide by 0.
        counted = [
            {**b, "labels": torch.zeros_like(b["labels"])} if b["labels"].ndim == 1 else b
            for b in batch_samples
        ]
        return super()._get_num_items_in_batch(counted, *args)

    def _objective_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
        items = len(labels) if num_items_in_batch is None else num_items_in_batch
        step = Step(outputs.logits, labels, self._columns, items)
        return (self._objective if self.model.training else CrossEntropy()).loss(step)


class Collapse(TrainerCallback):
    """Ends a run that collapses, with the weights of its last good epoch.

    Args:
        model: The model in training.
        validation: Judges the model, once before training and after every epoch.

    Attributes:
        reason: Why the run was ended, or None.
    """

    def __init__(self, model: Any, validation: EncodedData) -> None:
        self._validation = validation
        self._start = self._health(model)
        self._good = copy.deepcopy(model.state_dict())
        self.reason: str | None = None

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Judge the model, and end the run before a collapsed epoch is saved."""
        illness = self._health(model).illness(self._start)
        if illness is None:
            self._good = copy.deepcopy(model.state_dict())
            return
        self.reason = f"stopped in epoch {state.epoch:.0f}: {illness}"
        control.should_training_stop = True
        control.should_save = False

    def conclude(self, model: Any) -> str | None:
        """Return why the run was ended; if it was, restore the last good epoch.

        Without a good epoch the weights are those of the start.
        """
        if self.reason is not None:
            model.load_state_dict(self._good)
        return self.reason

    def _health(self, model: Any) -> Health:
        return Health.of(self._validation.predict(model), self._validation.labels)
