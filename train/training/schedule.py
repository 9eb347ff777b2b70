"""The schedule of a training, its device, and the Hugging Face Trainer's arguments for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from train.errors import DeviceError, TrainingError
from train.models import Checkpoint
from train.training.augment import Augment

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
_LARGE_SET = 10_000
_CHECKS = 4


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length, rate and device of a training.

    Attributes:
        epochs: Passes over the training split.
        steps: Number of updates, instead of epochs.
        batch_size: Inputs per step, of all processes together.
        accumulation: Steps whose gradients are summed before an update.
        learning_rate: Peak rate.
        weight_decay: Decoupled weight decay of AdamW.
        scheduler: Shape of the rate over time, a transformers name.
        patience: Epochs without a lower validation loss after which training stops and the best
            weights are used; None trains all epochs and uses the last weights.
        precision: `auto` is bf16 on CUDA, else fp32.
        device: `auto` uses CUDA if there is a device.
        compile: Compile the model with `torch.compile`; pays off if a step takes long.
        checkpointing: Compute activations again in the backward pass to save memory.
        seed: Seed of the order of the inputs.
        augment: Augmentation of training pictures, or None.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int
    accumulation: int = 1
    learning_rate: float
    weight_decay: float
    scheduler: str
    patience: int | None = None
    precision: Precision = "auto"
    device: Device = "auto"
    compile: bool = False
    checkpointing: bool = False
    seed: int = 0
    augment: Augment | None = None

    @property
    def check_steps(self) -> int | None:
        """Updates between two checks of a run of steps; None checks once per epoch."""
        return None if self.steps is None else max(1, self.steps // _CHECKS)

    @property
    def used_precision(self) -> str:
        """The precision, with `auto` resolved."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if uses_cuda(self.device) else "fp32"


def default_batch_size(inputs: int) -> int:
    """Return the default number of inputs per step: small sets need more steps."""
    return 128 if inputs >= _LARGE_SET else 32


def _share_of_batch(batch_size: int) -> int:
    """Return the share of one process, where `torchrun` or `accelerate launch` started several."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise TrainingError(
            f"expected a --batch-size that {processes} processes can share, got {batch_size}"
        )
    return batch_size // processes


def training_arguments(
    schedule: Schedule,
    work: Path,
    *,
    eval_batch_size: int = 256,
    workers: int = 0,
    **further: Any,
) -> TrainingArguments:
    """Return the arguments of a resumable, repeatable run.

    Args:
        schedule: Length, rate and device.
        work: Folder in which the Trainer saves its state.
        eval_batch_size: Inputs per step on validation.
        workers: Processes that encode inputs ahead of the step.
        **further: Further arguments of `TrainingArguments`.

    Raises:
        TrainingError: The processes cannot share a batch.
        DeviceError: CUDA was asked for and there is none.
    """
    on_cuda = uses_cuda(schedule.device)
    precision = schedule.used_precision
    every: dict[str, Any] = {"save_strategy": "epoch", "logging_strategy": "epoch"}
    if schedule.check_steps is not None:
        every = dict.fromkeys(every, "steps")
        every |= dict.fromkeys(("save_steps", "logging_steps"), schedule.check_steps)
    # transformers 4 leaves the precision of the last run in the process's environment, and would
    # use it for this run.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if precision == "fp32" else precision
    best = schedule.patience is not None
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=schedule.epochs,
        max_steps=schedule.steps or -1,
        per_device_train_batch_size=_share_of_batch(schedule.batch_size),
        per_device_eval_batch_size=max(eval_batch_size, schedule.batch_size),
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        lr_scheduler_type=schedule.scheduler,
        eval_strategy="epoch" if best else "no",
        save_total_limit=1,
        load_best_model_at_end=best,
        metric_for_best_model="eval_loss" if best else None,
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
        **every,
        **further,
    )


def uses_cuda(device: Device) -> bool:
    """Return whether to compute on CUDA; `auto` uses it if there is a device.

    Raises:
        DeviceError: CUDA was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "expected a CUDA device, torch finds none: check the driver and that torch is a CUDA "
            "build, or use --device cpu"
        )
    return device != "cpu" and torch.cuda.is_available()


def move_to(checkpoint: Checkpoint, device: Device) -> Checkpoint:
    """Move a checkpoint's model to a device, and return the checkpoint.

    Raises:
        DeviceError: CUDA was asked for and there is none.
    """
    move_model(checkpoint.model, device)
    return checkpoint


def move_model(model: Any, device: Device) -> None:
    """Move a model to a device.

    Raises:
        DeviceError: CUDA was asked for and there is none.
    """
    place = "cpu"
    if uses_cuda(device):
        # Convolutions in TF32, torch's default, round to 10 bits. That moves confidences by 1e-3,
        # and the shipped model would defer other inputs than the scored one.
        torch.backends.cudnn.allow_tf32 = False
        place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun's number of this process
    model.to(place)
