"""Says before a training what will be trained, and how long it will take: a few steps are timed."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import numpy as np
import torch

from train.data import Splits
from train.models import Checkpoint
from train.training.schedule import Schedule, uses_cuda

_STEPS = 3
_FORWARD = 1 / 3  # of the time of a step
_MINUTE, _HOUR = 60, 3600
_MANY = 1_000_000


def announce(checkpoint: Checkpoint, splits: Splits, schedule: Schedule, name: str) -> None:
    """Print the model, its size and rate, and the expected time; nothing in further processes."""
    if os.environ.get("RANK", "0") != "0":
        return
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    shown = f"{parameters / _MANY:.1f} million" if parameters >= _MANY else f"{parameters:,}"
    inputs, size = f"{len(splits.train)} {checkpoint.kind}s", ""
    if checkpoint.kind == "image":
        height, width = checkpoint.pixel_values(splits.train.inputs[:1]).shape[2:]
        size = f" at {width} x {height} pixels"
    print(
        f"{name}{size}, {shown} parameters, learning rate {schedule.learning_rate:g}; {inputs} in "
        f"batches of {schedule.batch_size}, at most {schedule.epochs} epochs"
        f"{_expected(checkpoint, splits, schedule)}",
        flush=True,
    )


def _expected(checkpoint: Checkpoint, splits: Splits, schedule: Schedule) -> str:
    try:
        encode_s, step_s = _measure(checkpoint, splits, schedule)
    except RuntimeError:  # a step does not work, or not fit: the training will say it better
        return ""
    steps = -(-len(splits.train) // schedule.batch_size)
    checks = _FORWARD * len(splits.validation) / schedule.batch_size
    epoch_s = step_s * (steps + checks)
    total_s = encode_s * (len(splits.train) + len(splits.validation)) + schedule.epochs * epoch_s
    return f": about {_duration(total_s)} ({_duration(epoch_s)} an epoch)"


def _measure(checkpoint: Checkpoint, splits: Splits, schedule: Schedule) -> tuple[float, float]:
    """Return the seconds to read and encode an input, and those of a step."""
    train, device = splits.train, "cuda" if uses_cuda(schedule.device) else "cpu"
    rows = np.arange(min(schedule.batch_size, len(train)))
    start = time.perf_counter()
    batch = checkpoint.encode([train.inputs[int(i)] for i in rows])
    encode_s = (time.perf_counter() - start) / rows.size
    if schedule.augment is not None:
        batch["pixel_values"] = schedule.augment(batch["pixel_values"], rows.tolist())
    batch = {name: values.to(device) for name, values in batch.items()}
    model = copy.deepcopy(checkpoint.model).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    times = []
    with torch.random.fork_rng(), torch.autocast(device, torch.bfloat16, _is_half(schedule)):
        for _ in range(_STEPS):
            start = time.perf_counter()
            _step(model, batch, optimizer)
            times.append(time.perf_counter() - start)
    return encode_s, sum(times[1:]) / (_STEPS - 1)  # the first one sets up


def _step(model: Any, batch: dict[str, Any], optimizer: Any) -> None:
    logits = model(**batch).logits
    torch.logsumexp(logits.float(), dim=-1).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    logits.sum().item()  # waits for the device


def _is_half(schedule: Schedule) -> bool:
    return schedule.used_precision != "fp32"


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{max(seconds, 0.1):.0f} s" if seconds >= 1 else f"{max(seconds, 0.1):.1f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
