"""Inputs of a language model's size, and the losses that are measured on them."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.errors import BenchmarkError
from benchmarks.processes import peak_resident_bytes, resident_bytes
from train import linear_gatekeeper_loss

# MERGEDOC benchmarks/linear_loss_peak.py: 'The peak memory of a loss and its gradients, above the inputs and the gradients themselves.\n\nOn the CPU a process of its own (`python -m benchmarks.losses.linear_case`, one JSON line) measures\nits resident set: what an earlier call left with the allocator would count for nothing.\n'

Name = Literal["ours", "dense", "cross-entropy", "Liger", "Liger, one chunk"]
ALPHA: Final = 0.5
NO_LIGER: Final = "liger-kernel is not installed"
_RIGHT_LENGTH: Final = 2.0
_SMALL_VOCABULARY: Final = 1000
_SMALL_TOKENS: Final = 4

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
_RESET: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


@dataclass(frozen=True)
class Case:
    """What the losses are measured on.

    Attributes:
        device: `cpu` or `cuda`.
        dtype: Of hidden states and weight, a name of torch's.
        vocabulary: Rows of the weight.
        hidden: Columns of the weight.
        tokens: Rows of the hidden states.
        seed: Of the draws.
    """

    device: str
    dtype: str
    vocabulary: int
    hidden: int
    tokens: int
    seed: int

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden [N, D], weight [V, D] and labels [N]; every other token is right."""
        torch.manual_seed(self.seed)
        dtype = getattr(torch, self.dtype)
        like = {"device": self.device, "dtype": dtype}
        weight = torch.randn(self.vocabulary, self.hidden, **like) / math.sqrt(self.hidden)
        hidden = torch.randn(self.tokens, self.hidden, **like)
        labels = torch.randint(0, self.vocabulary, (self.tokens,), device=self.device)
        # A state along its target's row has its highest logit there.
        hidden[::2] = _RIGHT_LENGTH * weight[labels[::2]]
        return hidden.requires_grad_(), weight.requires_grad_(), labels

    def small(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs for a first call, with which threads, libraries and kernels come."""
        return replace(self, vocabulary=_SMALL_VOCABULARY, tokens=_SMALL_TOKENS).inputs()


def losses(case: Case) -> dict[Name, Loss]:
    """Return the losses that there are on the device, by name."""
    found: dict[Name, Loss] = {"ours": _ours, "dense": _dense, "cross-entropy": _cross_entropy}
    if case.device == "cuda" and importlib.util.find_spec("liger_kernel") is not None:
        found["Liger"] = _liger(chunk=1)
        # Its chunk holds about this many times the numbers of the hidden states.
        everything = -(-case.vocabulary // case.hidden)
        found["Liger, one chunk"] = _liger(chunk=everything)
    return found


def _ours(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return linear_gatekeeper_loss(hidden, weight, labels, ALPHA)


def _dense(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The same loss as the formula says it, for autograd to differentiate."""
    logits = F.linear(hidden, weight)
    log_p = F.log_softmax(logits.to(torch.float32), dim=-1)
    right = logits.argmax(dim=-1) == labels
    ce = F.nll_loss(log_p, labels, reduction="none")
    kl = (log_p.exp() * log_p).sum(dim=-1) + math.log(len(weight))
    return torch.where(right, ALPHA * ce, (1.0 - ALPHA) * kl).mean()


def _cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), labels)


def _liger(chunk: int) -> Loss:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return liger_fused_linear_cross_entropy(hidden, weight, labels, chunk_mem_const=chunk)

    return loss


def step(loss: Loss, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Compute the loss and both gradients, as in a training step; return the loss."""
    hidden.grad = weight.grad = None
    value = loss(hidden, weight, labels)
    value.backward()
    return value.detach()


def peak_bytes(name: Name, case: Case) -> int:
    """Return the peak of a fresh process, in bytes.

    Raises:
        BenchmarkError: The process ended, for want of memory for example.
    """
    line = [sys.executable, "-m", "benchmarks.losses.linear_case"]
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
