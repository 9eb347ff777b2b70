"""The Gatekeeper loss (Rabanser et al. 2025, eq. 2 to 5) on dense logits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

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
) -> Tensor:
    """Return alpha * CE over the right + (1 - alpha) * KL(p || uniform) over the wrong.

    Prediction is the first arg-max of the current logits; no gradient passes through the indicator.
    Computed in float32, or float64 where the logits are.

    Args:
        logits: float [N, C] (eq. 2, 3) or [N, T, V] (eq. 4, 5, summed over tokens); -inf marks an
            impossible class.
        labels: int64 [N] or [N, T]; `ignore_index` leaves a position out.
        alpha: Weight of the right in [0, 1]; small alpha makes the wrong more uncertain.
        mask: bool or 0/1, the shape of `labels`; False leaves a position out.
        ignore_index: Label of positions that do not count.
        normalize: `batch` divides by N (fully masked rows count), `token` by the valid positions.
        denominator: Divides by this instead, e.g. the items of all accumulation steps.

    Returns:
        A scalar; 0 where nothing is valid.

    Raises:
        ValueError: `alpha` is out of range or the shapes do not match.
    """
    _check(logits, labels, alpha)
    valid = valid_positions(labels, mask, ignore_index)
    # Rows are selected before anything is computed: garbage at a masked position must reach
    # neither the value nor the gradient.
    rows, targets = logits[valid], labels[valid]
    total = token_losses(rows, targets, alpha).sum()
    if denominator is None:
        denominator = len(labels) if normalize == "batch" else len(targets)
        denominator = max(denominator, 1)
    return total / denominator


def _check(logits: Tensor, labels: Tensor, alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"expected alpha in [0, 1], got {alpha}")
    if logits.shape[:-1] != labels.shape or labels.ndim not in {1, 2}:
        raise ValueError(
            "expected logits [N, C] with labels [N], or [N, T, V] with [N, T], got "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )


def valid_positions(labels: Tensor, mask: Tensor | None, ignore_index: int) -> Tensor:
    """Return bool, the shape of `labels`: which positions count.

    Raises:
        ValueError: The mask's shape is another.
    """
    valid = labels != ignore_index
    if mask is None:
        return valid
    if mask.shape != labels.shape:
        raise ValueError(f"expected a mask of shape {list(labels.shape)}, got {list(mask.shape)}")
    # Attention masks come as integers, and an integer tensor would index rows, not choose them.
    return valid & mask.bool()


def token_losses(rows: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """Return each row's weighted loss [M] for logits [M, C] and valid targets [M]."""
    wide = rows if rows.dtype == torch.float64 else rows.float()
    log_p = wide.log_softmax(dim=-1)
    right = wide.argmax(dim=-1) == targets
    # The wrong rows' log p may be -inf at the target: it is replaced before the product, because
    # 0 * inf would be NaN in the gradient.
    picked = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    cross_entropy = -picked.masked_fill(~right, 0.0)
    finite = log_p.masked_fill(log_p == -math.inf, 0.0)
    kl = (log_p.exp() * finite).sum(dim=-1) + math.log(rows.shape[-1])
    return alpha * cross_entropy + (1.0 - alpha) * kl.masked_fill(right, 0.0)


class GatekeeperLoss(nn.Module):
    """`gatekeeper_loss` as a module.

    Args:
        alpha: Weight of the right, in [0, 1].
        ignore_index: Label of positions that do not count.
        normalize: `batch` or `token`.
    """

    def __init__(
        self, alpha: float, *, ignore_index: int = -100, normalize: Normalize = "batch"
    ) -> None:
        super().__init__()
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"expected alpha in [0, 1], got {alpha}")
        self.alpha = alpha
        self.ignore_index = ignore_index
        self.normalize: Normalize = normalize

    def forward(self, logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of logits [N, C] or [N, T, V]; see `gatekeeper_loss`."""
        return gatekeeper_loss(
            logits,
            labels,
            self.alpha,
            mask=mask,
            ignore_index=self.ignore_index,
            normalize=self.normalize,
        )
