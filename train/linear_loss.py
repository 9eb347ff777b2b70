"""The Gatekeeper loss from hidden states and an output layer, in chunks of tokens.

The logits of a large vocabulary are the biggest tensor of a training step. Here they live one chunk
at a time: the gradients are formed in the forward pass, while the chunk's logits are at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.loss import Normalize, valid_positions, valid_targets
from train.row_losses import block_rows, row_losses, wide_type

_CHUNK_TOKENS = 1024


def linear_gatekeeper_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    alpha: float,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    ignore_index: int = -100,
    normalize: Normalize = "batch",
    chunk_tokens: int = _CHUNK_TOKENS,
) -> Tensor:
    """Return `gatekeeper_loss(hidden @ weight.T + bias, labels, alpha)` without holding the logits.

    Args:
        hidden: float [N, D] or [N, T, D].
        weight: float [V, D], the output layer.
        labels: int64 [N] or [N, T].
        alpha: Weight of the right, in [0, 1].
        bias: float [V].
        mask: bool or 0/1, the shape of `labels`; False leaves a position out.
        ignore_index: Label of positions that do not count.
        normalize: `batch` divides by N, `token` by the valid positions.
        chunk_tokens: Positions whose logits are held at once.

    Raises:
        ValueError: `alpha` or `chunk_tokens` is out of range or the shapes do not match.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"expected alpha in [0, 1], got {alpha}")
    if chunk_tokens < 1:
        raise ValueError(f"expected chunk_tokens of at least 1, got {chunk_tokens}")
    if hidden.shape[:-1] != labels.shape or weight.shape[-1] != hidden.shape[-1]:
        raise ValueError(
            "expected hidden [..., D], weight [V, D] and labels [...], got "
            f"{list(hidden.shape)}, {list(weight.shape)} and {list(labels.shape)}"
        )
    valid = valid_positions(labels, mask, ignore_index)
    rows, targets = hidden[valid], labels[valid]
    valid_targets(targets, torch.ones_like(targets, dtype=torch.bool), len(weight))
    total = _ChunkedLoss.apply(rows, weight, bias, targets, alpha, chunk_tokens)
    denominator = len(labels) if normalize == "batch" else len(targets)
    return total / max(denominator, 1)


class _ChunkedLoss(torch.autograd.Function):
    """Sums the loss over chunks of rows and keeps the gradients instead of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        alpha: float,
        chunk_tokens: int,
    ) -> Tensor:
        wide = wide_type(rows.dtype)
        total = torch.zeros((), dtype=wide, device=rows.device)
        grad_rows = torch.empty_like(rows)
        grad_weight = torch.zeros_like(weight, dtype=wide)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
        for start in range(0, len(rows), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            loss, grad = _chunk_gradient(rows[chunk], weight, bias, targets[chunk], alpha)
            total += loss
            grad_rows[chunk] = grad.to(rows.dtype) @ weight
            grad_weight += grad.T @ rows[chunk].to(wide)
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
        ctx.has_bias = bias is not None
        saved = [grad_rows, grad_weight.to(weight.dtype)]
        if bias is not None and grad_bias is not None:
            saved.append(grad_bias.to(bias.dtype))
        ctx.save_for_backward(*saved)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (scale,) = grads
        saved = [grad * scale.to(grad.dtype) for grad in ctx.saved_tensors]
        grad_bias = saved[2] if ctx.has_bias else None
        return saved[0], saved[1], grad_bias, None, None, None


def _chunk_gradient(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    grad = torch.empty_like(logits, dtype=wide_type(logits.dtype))
    everything = torch.ones_like(targets, dtype=torch.bool)
    step = block_rows(logits.shape[-1], logits.dtype, logits.device)
    losses = []
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        losses.append(row_losses(logits[rows], targets[rows], everything[rows], alpha, grad[rows]))
    return torch.cat(losses).sum(), grad
