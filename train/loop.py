"""The one training loop: the Hugging Face Trainer, set up for resumable, repeatable runs."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainingArguments,
)

from train.augment import Augment
from train.batches import EncodedData, as_it_comes
from train.callbacks import DataWait, Progress, StopOnNaN
from train.data import LabelledData, Splits
from train.devices import Device, placed, uses_cuda
from train.errors import DataError, TrainingError
from train.guards import Collapse
from train.models import Checkpoint, save
from train.objectives import Objective
from train.output import full_disk_in_words, refuse_existing
from train.trainer import ObjectiveTrainer

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Watcher = Callable[[EncodedData], TrainerCallback]
_LARGE_SET = 10_000
_DATA_FILE = "data.sha256"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Pictures a step, of all processes together.
        accumulation: Steps whose gradients are summed before an update.
        learning_rate: Peak rate.
        weight_decay: Decoupled weight decay of AdamW.
        scheduler: Shape of the rate over time, a transformers name.
        patience: Stop after so many epochs without a lower validation loss, and take the best
            weights; None trains all epochs and takes the last.
        precision: `auto` is bf16 on CUDA, else fp32.
        device: `auto` takes CUDA where it is.
        compile: Compile the model with `torch.compile` first; pays where a step takes long.
        seed: Seed of the order of the pictures.
        augment: How training pictures are varied; None leaves them.
    """

    epochs: int
    batch_size: int
    accumulation: int = 1
    learning_rate: float
    weight_decay: float
    scheduler: str
    patience: int | None = None
    precision: Precision = "auto"
    device: Device = "auto"
    compile: bool = False
    seed: int = 0
    augment: Augment | None = None


def usual_batch_size(inputs: int) -> int:
    """Return how many inputs a step takes where nobody said: small sets need the more steps."""
    return 128 if inputs >= _LARGE_SET else 32


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
    work = out.parent / f".{out.name}.training"
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    start = time.perf_counter()
    placed(checkpoint, schedule.device)
    with full_disk_in_words(out.parent):
        objective.attach(checkpoint.model)
        train = EncodedData(checkpoint, splits.train, columns, augment=schedule.augment)
        trainer = _trainer(checkpoint, train, splits.validation, objective, schedule, work)
        wait = DataWait()
        guard = Collapse(checkpoint.model, trainer.eval_dataset) if guarded else None
        for callback in (wait, *(watcher(train) for watcher in watchers), guard):
            if callback is not None:
                trainer.add_callback(callback)
        _require_same_data(work, splits)  # last, so that what is refused leaves no folder
        _run(trainer, _last_epoch(work) if resume else None)
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
    with full_disk_in_words(out.parent):
        save(checkpoint, out, extra=extra)
    shutil.rmtree(work, ignore_errors=True)
    why = f"; {extra['stopped']}" if extra["stopped"] else ""
    print(
        f"{out}: validation accuracy {extra['validation_accuracy']:.4f} after "
        f"{extra['epochs_run']} epochs, {extra['wall_time_s']} s{why}",
        flush=True,
    )


def _require_same_data(work: Path, splits: Splits) -> None:
    """Refuse to go on with other data than the interrupted run had.

    Raises:
        DataError: They have changed since.
    """
    file, mine = work / _DATA_FILE, splits.fingerprint()
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(mine, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != mine:
        raise DataError(
            f"expected the data that the run in {work} was begun with, they have changed since: "
            "leave --resume out to begin anew"
        )


def _run(trainer: ObjectiveTrainer, last_epoch: str | None) -> None:
    try:
        with warnings.catch_warnings():
            # Where time stamps are coarse the Trainer sorts its epochs by number, and says so.
            warnings.filterwarnings("ignore", message="mtime may not be reliable")
            trainer.train(resume_from_checkpoint=last_epoch)
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"a step does not fit into the memory of {trainer.args.device}: lower --batch-size"
        ) from None
    finally:
        _leave_autocast(trainer.model)


def _leave_autocast(model: Any) -> None:
    """Give a model its own forward pass back: accelerate leaves it in half precision for good."""
    if vars(model).pop("_original_forward", None) is not None:
        vars(model).pop("forward", None)


def accuracy(checkpoint: Checkpoint, data: LabelledData) -> float:
    """Return the share of right predictions."""
    return float((checkpoint.predict(data.inputs).argmax(axis=-1) == data.labels).mean())


def _last_epoch(work: Path) -> str | None:
    """Return the newest epoch that was written whole: a kill may have hit the writing of one."""
    folders = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]))
    return next((str(folder) for folder in reversed(folders) if _is_whole(folder)), None)


def _is_whole(folder: Path) -> bool:
    # The Trainer writes this file last.
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


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
        args=_arguments(schedule, work, train.workers),
        train_dataset=train,
        eval_dataset=EncodedData(checkpoint, validation),
        data_collator=as_it_comes,
        callbacks=callbacks,
    )
    # Its progress callbacks print every log as a dictionary; the bar below shows the same.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress)
    return trainer


def _share_of_batch(batch_size: int) -> int:
    """Return what one of the processes that `torchrun` or `accelerate launch` made takes of it."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise TrainingError(
            f"expected a --batch-size that {processes} processes can share, got {batch_size}"
        )
    return batch_size // processes


def _arguments(schedule: Schedule, work: Path, workers: int) -> TrainingArguments:
    on_cuda = uses_cuda(schedule.device)
    precision = schedule.precision
    if precision == "auto":
        precision = "bf16" if on_cuda else "fp32"
    # transformers 4 leaves the precision of the last run in the process's environment, and would
    # take it for this one's.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if precision == "fp32" else precision
    best = schedule.patience is not None
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=_share_of_batch(schedule.batch_size),
        per_device_eval_batch_size=max(256, schedule.batch_size),
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        lr_scheduler_type=schedule.scheduler,
        eval_strategy="epoch" if best else "no",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=best,
        metric_for_best_model="eval_loss" if best else None,
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        log_level="error",
        report_to=[],
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        seed=schedule.seed,
        data_seed=schedule.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=on_cuda,
        dataloader_num_workers=workers,
        use_cpu=not on_cuda,
        torch_compile=schedule.compile,
        ddp_find_unused_parameters=False,
    )
