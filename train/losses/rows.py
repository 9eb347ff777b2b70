"""The Gatekeeper loss and its gradient for a block of rows, formed together in one pass.

Backpropagation through the formula would hold several tensors of the logits' size and read each of
them from memory. A block that fits into the processor's cache avoids both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 20
"""Size limit of a block of rows, so that it stays in the cache."""
_LOWEST = -1e4  # exp of it is 0 in float64 already, and 0 * -1e4 is 0 where 0 * -inf is NaN


def block_rows(classes: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return the number of rows of `classes` logits per block; on a GPU all rows are one block."""
    if device.type != "cpu":
        # Launching many small kernels costs more there than the memory saved is worth.
        return 1 << 62
    return max(1, BLOCK_BYTES // (classes * wide_type(dtype).itemsize))


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: float64 stays, everything else becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def scratch_for(logits: Tensor, rows: int, *, with_softcap: bool = False) -> Tensor:
    """Return scratch memory of `row_losses` for blocks of `rows` rows, [2 or 3, rows, C].

    To allocate it for each block would cost more than the block.
    """
    wide = wide_type(logits.dtype)
    buffers = 3 if with_softcap or wide != logits.dtype else 2
    rows = min(rows, max(len(logits), 1))
    return torch.empty(buffers, rows, logits.shape[-1], dtype=wide, device=logits.device)


def row_losses(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor | None,
    alpha: float,
    gradient: Tensor | None,
    scratch: Tensor,
    right: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Return the loss of each row [M], and write its gradient.

    A right row has alpha * CE with gradient alpha * (p - onehot); a wrong one has
    (1 - alpha) * KL(p || U) = (1 - alpha) * (sum p log p + log C) with gradient
    (1 - alpha) * p * (log p - sum p log p); an invalid row has neither, whatever its logits.

    Args:
        logits: float [M, C].
        targets: int64 [M], in [0, C) even for invalid rows.
        valid: bool [M]; None if all rows are valid.
        alpha: Weight of the right, in [0, 1].
        gradient: float [M, C] to write to, or None for no gradient; it may be `logits`.
        scratch: Memory from `scratch_for`, for at least M rows.
        right: bool [M], rows that count as right; None goes by the logits.
        softcap: Logits z become softcap * tanh(z / softcap) first; None leaves them unchanged.
    """
    p, log_p, *spare = scratch[:, : len(logits)]
    wide = _widened(logits, softcap, spare)
    if right is None:
        right = _is_right(wide, targets, p)
    torch.log_softmax(wide, dim=-1, out=log_p)
    torch.exp(log_p.clamp_(min=_LOWEST), out=p)
    picked = log_p.gather(-1, targets[:, None])[:, 0]
    p_log_p = log_p.mul_(p)
    negative_entropy = p_log_p.sum(dim=-1)
    kl = negative_entropy + math.log(logits.shape[-1])
    losses = torch.where(right, -alpha * picked, (1.0 - alpha) * kl)
    if valid is not None:
        losses.masked_fill_(~valid, 0.0)
    if gradient is not None:
        # Both cases are a * p + b * p log p, one of them less alpha at the target.
        on_right = alpha * right.to(p.dtype)
        on_wrong = (1.0 - alpha) * (~right).to(p.dtype)
        p.mul_((on_right - on_wrong * negative_entropy)[:, None])
        p.scatter_add_(-1, targets[:, None], -on_right[:, None])
        # Written in place if the types allow: a copy would be one more pass.
        direct = gradient if gradient.dtype == p.dtype and softcap is None else p
        torch.addcmul(p, p_log_p, on_wrong[:, None], out=direct)
        if softcap is not None:
            p.addcmul_(p, wide.div_(softcap).square_(), value=-1)
        if direct is p:
            gradient.copy_(p)
        if valid is not None and not valid.all():
            gradient.masked_fill_(~valid[:, None], 0.0)
    return losses


def _widened(logits: Tensor, softcap: float | None, spare: list[Tensor]) -> Tensor:
    if not spare:
        return logits
    (wide,) = spare
    if softcap is None:
        return wide.copy_(logits)
    return torch.div(logits, softcap, out=wide).tanh_().mul_(softcap)


def _is_right(logits: Tensor, targets: Tensor, scratch: Tensor) -> Tensor:
    """Return whether the target is the first arg-max, bool [M]."""
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1) == targets
    # On the CPU the arg-max costs more than all the rest, and is needed only for a tied top.
    top = logits.amax(dim=-1)
    right = logits.gather(-1, targets[:, None])[:, 0] == top
    if right.any():
        tied = right & (torch.eq(logits, top[:, None], out=scratch).sum(dim=-1) > 1)
        if tied.any():
            right[tied] = logits[tied].argmax(dim=-1) == targets[tied]
    return right
