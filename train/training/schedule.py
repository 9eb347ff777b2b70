"""How long and how fast to train, and what that means to the Hugging Face Trainer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments

# MERGEDOC train/devices.py: 'Where to work: the CPU, or CUDA where it is.'
from train.errors import DeviceError, TrainingError
from train.models import Checkpoint
from train.training.augment import Augment

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_LARGE_SET = 10_000
_CHECKS = 4

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training split.
        steps: Updates in all, instead of epochs.
        batch_size: Inputs a step, of all processes together.
        accumulation: Steps whose gradients are summed before an update.
        learning_rate: Peak rate.
        weight_decay: Decoupled weight decay of AdamW.
        scheduler: Shape of the rate over time, a transformers name.
        patience: Stop after so many epochs without a lower validation loss, and take the best
            weights; None trains all epochs and takes the last.
        precision: `auto` is bf16 on CUDA, else fp32.
        device: `auto` takes CUDA where it is.
        compile: Compile the model with `torch.compile` first; pays where a step takes long.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
        seed: Seed of the order of the inputs.
        augment: How training pictures are varied; None leaves them.
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
        """After how many updates a run of steps is looked at and saved; None: once an epoch."""
        return None if self.steps is None else max(1, self.steps // _CHECKS)

    @property
    def used_precision(self) -> str:
        """What `auto` stands for, else the precision that was asked for."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if uses_cuda(self.device) else "fp32"


def default_batch_size(inputs: int) -> int:
    """Return how many inputs a step takes where nobody said: small sets need the more steps."""
    return 128 if inputs >= _LARGE_SET else 32


def _share_of_batch(batch_size: int) -> int:
    """Return what one of the processes that `torchrun` or `accelerate launch` made takes of it."""
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
        schedule: How long and how fast.
        work: Where the Trainer keeps what it needs to go on.
        eval_batch_size: Inputs that are looked at at once on validation.
        workers: Processes that encode inputs ahead of the step.
        **further: Arguments of `TrainingArguments` of one kind of model.

    Raises:
        TrainingError: The processes cannot share a batch.
        DeviceError: CUDA was asked for and is not there.
    """
    on_cuda = uses_cuda(schedule.device)
    precision = schedule.used_precision
    every: dict[str, Any] = {"save_strategy": "epoch", "logging_strategy": "epoch"}
    if schedule.check_steps is not None:
        every = dict.fromkeys(every, "steps")
        every |= dict.fromkeys(("save_steps", "logging_steps"), schedule.check_steps)
    # transformers 4 leaves the precision of the last run in the process's environment, and would
    # take it for this one's.
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
    """Return whether to work on CUDA; `auto` takes it where it is.

    Raises:
        DeviceError: It was asked for and is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "expected a CUDA device, torch finds none: check the driver and that torch is a CUDA "
            "build, or take --device cpu"
        )
    return device != "cpu" and torch.cuda.is_available()


def move_to(checkpoint: Checkpoint, device: Device) -> Checkpoint:
    """Move a checkpoint's model to where to work, and return the checkpoint.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    move_model(checkpoint.model, device)
    return checkpoint


def move_model(model: Any, device: Device) -> None:
    """Move a model to where to work.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    where = "cpu"
    if uses_cuda(device):
        # Convolutions in TF32, torch's default, round to 10 bits. That moves confidences by 1e-3,
        # and the model that ships would then defer other inputs than the one that was scored.
        torch.backends.cudnn.allow_tf32 = False
        where = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun's number of this process
    model.to(where)
