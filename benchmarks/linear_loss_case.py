"""Inputs of a language model's size, and the losses that are measured on them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from train import linear_gatekeeper_loss

Name = Literal["ours", "dense", "cross-entropy", "Liger", "Liger, one chunk"]
ALPHA: Final = 0.5
NO_LIGER: Final = "liger-kernel is not installed"
_RIGHT_LENGTH: Final = 2.0
_SMALL_VOCABULARY: Final = 1000
_SMALL_TOKENS: Final = 4


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


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


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
