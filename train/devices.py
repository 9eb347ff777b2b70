"""Where to work: the CPU, or CUDA where it is."""

from __future__ import annotations

from typing import Literal

import torch

from train.errors import DeviceError

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
