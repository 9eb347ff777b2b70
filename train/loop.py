"""The one training loop: the Hugging Face Trainer, set up for resumable, repeatable runs."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from train.data import LabelledData, Splits
from train.errors import TrainingError
from train.models import Checkpoint, save
from train.output import refuse_existing

Loss = Callable[[Tensor, Tensor, "int | Tensor"], Tensor]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
_IN_MEMORY_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Pictures a step.
        accumulation: Steps whose gradients are summed before an update.
        learning_rate: Peak rate.
        weight_decay: Decoupled weight decay of AdamW.
        scheduler: Shape of the rate over time, a transformers name.
        patience: Stop after so many epochs without a lower validation loss, and take the best
            weights; None trains all epochs and takes the last.
        precision: `auto` is bf16 on CUDA, else fp32.
        seed: Seed of the order of the pictures.
    """

    epochs: int
    batch_size: int
    accumulation: int = 1
    learning_rate: float
    weight_decay: float
    scheduler: str
    patience: int | None = None
    precision: Precision = "auto"
    seed: int = 0


def train_checkpoint(
    checkpoint: Checkpoint,
    splits: Splits,
    loss: Loss,
    schedule: Schedule,
    *,
    out: Path,
    resume: bool,
    overwrite: bool,
    record: dict[str, Any],
) -> None:
    """Train and write the checkpoint folder `out`, with `training.json` beside the weights.

    Args:
        checkpoint: What to start from.
        splits: Trains on `train`, watches `validation`.
        loss: (logits, labels, items) -> the summed loss over `items`.
        schedule: How long and how fast.
        out: The folder to write; the work is kept beside it until it is done.
        resume: Go on from the last epoch of an interrupted run.
        overwrite: Replace an existing folder.
        record: What else `training.json` says.

    Raises:
        OutputError: The folder is not empty.
        TrainingError: The loss became NaN or infinite.
    """
    refuse_existing(out, overwrite=overwrite)
    work = out.parent / f".{out.name}.training"
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    start = time.perf_counter()
    trainer = _trainer(checkpoint, splits, loss, schedule, work)
    with warnings.catch_warnings():
        # Where time stamps are coarse the Trainer sorts its epochs by number, and says so often.
        warnings.filterwarnings("ignore", message="mtime may not be reliable")
        trainer.train(resume_from_checkpoint=_last_epoch(work) if resume else None)
    checkpoint.model.to("cpu").eval()
    extra = {
        **record,
        "epochs_run": round(trainer.state.epoch or 0),
        "validation_accuracy": accuracy(checkpoint, splits.validation),
        "wall_time_s": round(time.perf_counter() - start, 2),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    # With several processes one of them writes.
    if not trainer.is_world_process_zero():
        return
    save(checkpoint, out, extra=extra)
    shutil.rmtree(work, ignore_errors=True)
    print(
        f"{out}: validation accuracy {extra['validation_accuracy']:.4f} after "
        f"{extra['epochs_run']} epochs, {extra['wall_time_s']} s",
        flush=True,
    )


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
    checkpoint: Checkpoint, splits: Splits, loss: Loss, schedule: Schedule, work: Path
) -> Trainer:
    def compute_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        items = len(labels) if num_items_in_batch is None else num_items_in_batch
        return loss(outputs.logits, labels, items)

    callbacks: list[TrainerCallback] = [_StopOnNaN()]
    if schedule.patience is not None:
        callbacks.append(EarlyStoppingCallback(schedule.patience))
    trainer = Trainer(
        model=checkpoint.model,
        args=_arguments(schedule, work),
        train_dataset=PixelData(checkpoint, splits.train),
        eval_dataset=PixelData(checkpoint, splits.validation),
        compute_loss_func=compute_loss,
        callbacks=callbacks,
    )
    # Its progress callbacks print every log as a dictionary; the bar below shows the same.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress)
    return trainer


def _arguments(schedule: Schedule, work: Path) -> TrainingArguments:
    precision = schedule.precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() else "fp32"
    best = schedule.patience is not None
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=schedule.batch_size,
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
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class PixelData(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A split as the model takes it.

    Pictures pass the processor once, not once an epoch, unless they would fill the memory.
    """

    def __init__(self, checkpoint: Checkpoint, data: LabelledData) -> None:
        self._checkpoint = checkpoint
        self._images = data.inputs
        one = self._process(0)
        self._pixels: Tensor | None = None
        if one.nbytes * len(data) <= _IN_MEMORY_BYTES:
            self._pixels = torch.stack([one, *(self._process(i) for i in range(1, len(data)))])
        self._labels = torch.from_numpy(np.asarray(data.labels))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pixels = self._process(index) if self._pixels is None else self._pixels[index]
        return {"pixel_values": pixels, "labels": self._labels[index]}

    def _process(self, index: int) -> Tensor:
        return self._checkpoint.pixel_values([self._images[index]])[0]


class _Progress(TrainerCallback):
    """One bar over the epochs, with the latest losses; silent where nobody watches."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        total = math.ceil(args.num_train_epochs)
        self._bar = tqdm(total=total, unit="epoch", initial=round(state.epoch or 0), disable=None)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        shown = {k: v for k, v in (logs or {}).items() if k in {"loss", "eval_loss"}}
        self._bar.set_postfix(shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


class _StopOnNaN(TrainerCallback):
    """Stops before a broken model replaces the last good one."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        value = (logs or {}).get("loss", 0.0)
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in epoch {state.epoch:.0f}: lower --learning-rate; "
                f"{args.output_dir} keeps the last good epoch"
            )
