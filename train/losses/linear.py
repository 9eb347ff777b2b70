"""The Gatekeeper loss from hidden states and an output layer, without the logits of all tokens.

The logits of a large vocabulary are the biggest tensor of a training step. Here only one chunk of
tokens has them at a time: the forward pass forms the gradients from the chunk's logits and writes
them over the logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.losses.gatekeeper import (
    Normalize,
    check_alpha,
    right_flags,
    valid_positions,
    valid_targets,
)
from train.losses.linear_chunks import Gradients, Terms, chunked_loss


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
    denominator: float | Tensor | None = None,
    correct: Tensor | None = None,
    softcap: float | None = None,
    chunk_tokens: int | None = None,
) -> Tensor:
    """Return `gatekeeper_loss(hidden @ weight.T + bias, labels, alpha)` without holding the logits.

    Gatekeeper's eq. 4 and 5. Only positions that count are multiplied; a frozen layer costs no
    gradient, and under `torch.no_grad` there is none at all. With `alpha=1` and `correct` all True
    this is cross-entropy.

    Between forward and backward, the gradients take the place of the graph, so checkpointing this
    call saves nothing (checkpoint the computation of `hidden`). The first backward pass hands them
    on; a second one, with `retain_graph`, computes them again.

    Half-precision inputs are multiplied in their type and reduced in float32. The gradient of the
    layer is summed over chunks in float32, which takes twice the layer's own memory until the
    backward pass; bfloat16 needs that sum only if the logits of all tokens would take more. If
    `weight` and `hidden` differ in type, a copy of `weight` in hidden's type is multiplied, and its
    gradient has its own type. Under autocast `hidden` is cast to autocast's type.

    Args:
        hidden: float [N, D] or [N, T, D].
        weight: float [V, D], the output layer; the embedding itself where the two are tied.
        labels: int64 [N] or [N, T]; not shifted: `hidden` at t predicts position t of `labels`.
        alpha: Weight of the right, in [0, 1].
        bias: float [V]; -inf marks an impossible class.
        mask: bool or 0/1, the shape of `labels`; False leaves a position out.
        ignore_index: Label of positions that are left out.
        normalize: `batch` divides by N, `token` by the valid positions.
        denominator: Divisor that replaces both, such as the items of all accumulation steps.
        correct: bool, the shape of `labels`: positions that count as right, if they are known from
            other predictions than these logits.
        softcap: Logits z become softcap * tanh(z / softcap) first, as in Gemma 2.
        chunk_tokens: Positions whose logits are held at once; by default as many as fit into
            `train.losses.linear_chunks.CHUNK_BYTES`.

    Returns:
        A scalar, float32 or float64; 0 if nothing is valid.

    Raises:
        ValueError: `alpha`, `softcap`, `chunk_tokens` or a label is out of range, or the shapes do
            not match.
    """
    _check(hidden, weight, labels, alpha, softcap, chunk_tokens)
    valid = valid_positions(labels, mask, ignore_index).flatten()
    rows, targets = hidden.flatten(0, -2), labels.flatten()
    right = None if correct is None else right_flags(correct, labels).flatten()
    count = int(valid.sum())
    if count < len(valid):
        rows, targets = rows[valid], targets[valid]
        right = None if right is None else right[valid]
    targets = valid_targets(targets, None, len(weight))
    if denominator is None:
        denominator = max(len(labels) if normalize == "batch" else count, 1)
    terms = Terms(targets, alpha, right, softcap)
    rows, enabled = _as_autocast(rows), torch.is_grad_enabled()
    with torch.autocast(rows.device.type, enabled=False):
        total: Tensor = _ChunkedLoss.apply(rows, weight, bias, terms, chunk_tokens, enabled)
    return total / denominator


def _check(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    alpha: float,
    softcap: float | None,
    chunk_tokens: int | None,
) -> None:
    check_alpha(alpha)
    if softcap is not None and not (softcap > 0.0 and math.isfinite(softcap)):
        raise ValueError(f"expected a softcap above 0, or None, got {softcap}")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"expected chunk_tokens of at least 1, or None, got {chunk_tokens}")
    matches = hidden.shape[:-1] == labels.shape and labels.ndim in {1, 2}
    if not matches or weight.ndim != 2 or weight.shape[-1] != hidden.shape[-1]:  # noqa: PLR2004
        raise ValueError(
            "expected hidden [..., D], weight [V, D] and labels [...], got "
            f"{list(hidden.shape)}, {list(weight.shape)} and {list(labels.shape)}"
        )


def _as_autocast(rows: Tensor) -> Tensor:
    """Cast the rows as a linear layer would; the weight is cast where it is multiplied."""
    kind = rows.device.type
    if not torch.is_autocast_enabled(kind) or rows.dtype == torch.float64:
        return rows
    return rows.to(torch.get_autocast_dtype(kind))


class _ChunkedLoss(torch.autograd.Function):
    """The loss summed over chunks of rows; it keeps the gradients instead of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        terms: Terms,
        chunk_tokens: int | None,
        enabled: bool,
    ) -> Tensor:
        # `needs_input_grad` is also True under `torch.no_grad`.
        wanted = tuple(enabled and needed for needed in ctx.needs_input_grad[:3])
        ctx.call = (terms, wanted, chunk_tokens)
        total, gradients = chunked_loss(rows, weight, bias, *ctx.call)
        if any(wanted):
            # Saved as tensors they would be shared, and handing them on would need a copy.
            ctx.gradients = gradients
            ctx.save_for_backward(rows, weight, bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            # An earlier pass handed the buffers on, and their new owner may have changed them.
            gradients = _recompute(ctx)
        (scale,) = grads
        return (*gradients.scaled(scale), None, None, None)


def _recompute(ctx: Any) -> Gradients:
    rows, weight, bias = ctx.saved_tensors
    with torch.autocast(rows.device.type, enabled=False):
        return chunked_loss(rows, weight, bias, *ctx.call)[1]
