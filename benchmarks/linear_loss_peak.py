"""The peak memory of a loss and its gradients, above the inputs and the gradients themselves.

On the CPU a process of its own (`python -m benchmarks.linear_loss_peak`, one JSON line) measures
its resident set: what an earlier call left with the allocator would count for nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.errors import BenchmarkError
from benchmarks.linear_loss_case import Case, Loss, Name, losses, step
from benchmarks.resident import peak_resident_bytes, resident_bytes

_RESET: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


def peak_bytes(name: Name, case: Case) -> int:
    """Return the peak of a fresh process, in bytes.

    Raises:
        BenchmarkError: The process ended, for want of memory for example.
    """
    line = [sys.executable, "-m", "benchmarks.linear_loss_peak"]
    words = [name, json.dumps(asdict(case))]
    done = subprocess.run([*line, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise BenchmarkError(f"the process that measures the memory of {name} ended: {reason}")
    return int(done.stdout)


def is_counted() -> bool:
    """Tell whether this system resets and tells a process's highest resident set."""
    return _RESET.exists() and resident_bytes() is not None


def _peak_of_process(name: Name, case: Case) -> int:
    loss = losses(case)[name]
    step(loss, *case.small())
    inputs = case.inputs()
    before = resident_bytes() or 0
    _RESET.write_text(_RESET_PEAK, encoding="ascii")
    step(loss, *inputs)
    return (peak_resident_bytes() or 0) - before - _gradient_bytes(inputs)


def _gradient_bytes(inputs: tuple[Tensor, ...]) -> int:
    return sum(one.grad.nbytes for one in inputs if one.grad is not None)


def device_peak_bytes(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor]) -> int:
    """Return the same of tensors on a CUDA device, as torch's allocator counts them."""
    step(loss, *inputs)  # kernels are compiled and workspaces made
    inputs[0].grad = inputs[1].grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(loss, *inputs)
    return torch.cuda.max_memory_allocated() - before - _gradient_bytes(inputs)


if __name__ == "__main__":
    print(_peak_of_process(sys.argv[1], Case(**json.loads(sys.argv[2]))))  # type: ignore[arg-type]
