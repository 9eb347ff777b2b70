"""The Gatekeeper loss (Rabanser et al. 2025, eq. 2 to 5) on dense logits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from train.losses.rows import block_rows, row_losses, scratch_for, wide_type

Normalize = Literal["batch", "token"]


def gatekeeper_loss(
    logits: Tensor,
    labels: Tensor,
    alpha: float,
    *,
    mask: Tensor | None = None,
    ignore_index: int = -100,
    normalize: Normalize = "batch",
    denominator: float | Tensor | None = None,
    correct: Tensor | None = None,
) -> Tensor:
    """Return alpha * CE over the right + (1 - alpha) * KL(p || uniform) over the wrong.

    The prediction is the first arg-max of the current logits; no gradient passes through the
    indicator. Computed in float32, or in float64 for float64 logits.

    Args:
        logits: float [N, C] (eq. 2, 3) or [N, T, V] (eq. 4, 5, summed over tokens); -inf marks an
            impossible class.
        labels: int64 [N] or [N, T].
        alpha: Weight of the right in [0, 1]; a small alpha makes the wrong more uncertain.
        mask: bool or 0/1, the shape of `labels`; False leaves a position out.
        ignore_index: Label of positions that are left out.
        normalize: `batch` divides by N (fully masked rows count), `token` by the valid positions.
        denominator: Divisor that replaces both, such as the items of all accumulation steps.
        correct: bool, the shape of `labels`: positions that count as right, if they are known from
            other predictions than these logits (out-of-fold or eval-mode predictions).

    Returns:
        A scalar; 0 if nothing is valid.

    Raises:
        ValueError: `alpha` or a label is out of range, or the shapes do not match.
    """
    _check(logits, labels, alpha)
    valid = valid_positions(labels, mask, ignore_index).flatten()
    targets = valid_targets(labels.flatten(), valid, logits.shape[-1])
    if denominator is None:
        denominator = len(labels) if normalize == "batch" else int(valid.sum())
        denominator = max(denominator, 1)
    right = None if correct is None else right_flags(correct, labels).flatten()
    enabled = torch.is_grad_enabled()
    total: Tensor = _RowsLoss.apply(logits.flatten(0, -2), targets, valid, alpha, right, enabled)
    return total / denominator


def check_alpha(alpha: float) -> None:
    """Raise `ValueError` for an alpha outside [0, 1]."""
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"expected alpha in [0, 1], got {alpha}")


def _check(logits: Tensor, labels: Tensor, alpha: float) -> None:
    check_alpha(alpha)
    if logits.shape[:-1] != labels.shape or labels.ndim not in {1, 2}:
        raise ValueError(
            "expected logits [N, C] with labels [N], or [N, T, V] with [N, T], got "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )


def right_flags(correct: Tensor, labels: Tensor) -> Tensor:
    """Return `correct` as bool.

    Raises:
        ValueError: Its shape is not that of `labels`.
    """
    if correct.shape != labels.shape:
        raise ValueError(
            f"expected correct of shape {list(labels.shape)}, got {list(correct.shape)}"
        )
    return correct.bool()


def valid_positions(labels: Tensor, mask: Tensor | None, ignore_index: int) -> Tensor:
    """Return whether each position counts: bool, the shape of `labels`.

    Raises:
        ValueError: The mask's shape is not that of `labels`.
    """
    valid = labels != ignore_index
    if mask is None:
        return valid
    if mask.shape != labels.shape:
        raise ValueError(f"expected a mask of shape {list(labels.shape)}, got {list(mask.shape)}")
    # Attention masks come as integers, and an integer tensor would index rows, not select them.
    return valid & mask.bool()


def valid_targets(labels: Tensor, valid: Tensor | None, classes: int) -> Tensor:
    """Return the labels [N], with 0 where `valid` [N] is False; None counts all.

    Raises:
        ValueError: A label that counts is not a class.
    """
    targets = labels if valid is None else labels.masked_fill(~valid, 0)
    # On a GPU, reading the range back would make every step wait; its gather checks it anyway.
    if labels.device.type == "cpu" and targets.numel():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise ValueError(f"expected labels from 0 to {classes - 1}, got {low} to {high}")
    return targets


class _RowsLoss(torch.autograd.Function):
    """The loss summed over blocks of rows; the forward pass forms the gradient and keeps it."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        valid: Tensor,
        alpha: float,
        right: Tensor | None,
        enabled: bool,
    ) -> Tensor:
        # `needs_input_grad` is also True under `torch.no_grad`.
        wanted = enabled and ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else None
        total = torch.zeros((), dtype=wide_type(logits.dtype), device=logits.device)
        step = block_rows(logits.shape[-1], logits.dtype, logits.device)
        scratch = scratch_for(logits, step)
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            part = None if gradient is None else gradient[rows]
            known = None if right is None else right[rows]
            block = logits[rows], targets[rows], valid[rows]
            total += row_losses(*block, alpha, part, scratch, known).sum()
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        # The scale keeps its type: the 2^16 of loss scaling is infinite in float16.
        return gradient * grads[0], None, None, None, None, None


class GatekeeperLoss(nn.Module):
    """`gatekeeper_loss` as a module.

    Args:
        alpha: Weight of the right, in [0, 1].
        ignore_index: Label of positions that are left out.
        normalize: `batch` or `token`.
    """

    def __init__(
        self, alpha: float, *, ignore_index: int = -100, normalize: Normalize = "batch"
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        self.alpha = alpha
        self.ignore_index = ignore_index
        self.normalize: Normalize = normalize

    def forward(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `gatekeeper_loss` of logits [N, C] or [N, T, V]."""
        return gatekeeper_loss(
            logits,
            labels,
            self.alpha,
            mask=mask,
            ignore_index=self.ignore_index,
            normalize=self.normalize,
        )
