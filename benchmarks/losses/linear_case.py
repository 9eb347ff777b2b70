"""Inputs of a language model's size, the losses measured on them, and their peak memory.

The peak is that of a loss with its gradients, beyond inputs and gradients. On the CPU a process of
its own measures it, `python -m benchmarks.losses.linear_case`: in a shared one, memory that an
earlier call left with the allocator would hide the peak.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.processes import output_lines, peak_resident_bytes, resident_bytes
from train import linear_gatekeeper_loss

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
    """Size and place of the inputs.

    Attributes:
        device: `cpu` or `cuda`.
        dtype: Name of the torch type of hidden states and weight.
        vocabulary: Rows of the weight.
        hidden: Columns of the weight.
        tokens: Rows of the hidden states.
        seed: Seed of the draws.
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
        """Return small inputs for a first call, which loads threads, libraries and kernels."""
        return replace(self, vocabulary=_SMALL_VOCABULARY, tokens=_SMALL_TOKENS).inputs()


def losses(case: Case) -> dict[Name, Loss]:
    """Return the losses that the device can run, by name."""
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
    """Compute the loss by its formula, differentiated by autograd."""
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
    """Compute the loss and both gradients, as a training step does; return the loss."""
    hidden.grad = weight.grad = None
    value = loss(hidden, weight, labels)
    value.backward()
    return value.detach()


def peak_bytes(name: Name, case: Case) -> int:
    """Return the peak of a fresh process in bytes.

    Raises:
        BenchmarkError: The process failed, for lack of memory for example.
    """
    return int(output_lines("benchmarks.losses.linear_case", name, json.dumps(asdict(case)))[0])


def is_counted() -> bool:
    """Return whether this system resets and reports the peak of a process's resident set."""
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
    """Return the peak of tensors on a CUDA device, in bytes, by the count of torch's allocator."""
    step(loss, *inputs)  # compiles kernels and allocates workspaces
    inputs[0].grad = inputs[1].grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(loss, *inputs)
    return torch.cuda.max_memory_allocated() - before - _gradient_bytes(inputs)


if __name__ == "__main__":
    print(_peak_of_process(sys.argv[1], Case(**json.loads(sys.argv[2]))))  # type: ignore[arg-type]
