"""Where to work: the CPU, or CUDA where it is."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch

from train.errors import DeviceError
from train.models import Checkpoint

Device = Literal["auto", "cpu", "cuda"]


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


def placed(checkpoint: Checkpoint, device: Device) -> Checkpoint:
    """Move a checkpoint's model to where to work, and return the checkpoint.

    Raises:
        DeviceError: CUDA was asked for and is not there.
    """
    placed_model(checkpoint.model, device)
    return checkpoint


def placed_model(model: Any, device: Device) -> None:
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
