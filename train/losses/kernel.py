"""The Gatekeeper loss and its gradient for rows of logits on a GPU, in one kernel (Triton).

A row is read once for its sums and once more for its gradient, which is written over it. Single
operations of torch would take ten passes and three float32 tensors of the logits' size. Triton
comes with torch's CUDA builds for Linux; if it is missing or does not start, `train.losses.rows`
does the work.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

if importlib.util.find_spec("triton") is not None:
    import triton
    from triton import language as tl

    _HAS_TRITON = True
else:  # the signatures below name `tl`; `triton.jit` is applied only if it exists
    _HAS_TRITON = False

_BLOCK = 16384
_WARPS = 32
_WIDTHS = {torch.float32, torch.bfloat16, torch.float16}


def fits(logits: Tensor) -> bool:
    """Return whether the kernel can compute these logits."""
    return logits.device.type == "cuda" and logits.dtype in _WIDTHS and _starts(logits.device)


@cache
def _starts(device: torch.device) -> bool:
    """Try the kernel once: Triton needs a C compiler, and a GPU that it knows."""
    if not _HAS_TRITON:
        return False
    logits, targets = torch.zeros(1, 2, device=device), torch.zeros(1, dtype=torch.long)
    try:
        losses_in_place(logits, targets.to(device), 0.5, None, None, with_gradient=True)
    except Exception as error:  # noqa: BLE001 - compilers and drivers fail in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        warnings.warn(f"the loss runs without its kernel, more slowly: {reason}", stacklevel=2)
        return False
    return True


def losses_in_place(
    logits: Tensor,
    targets: Tensor,
    alpha: float,
    right: Tensor | None,
    softcap: float | None,
    *,
    with_gradient: bool,
) -> Tensor:
    """Return the loss of each row, float32 [M], and write the gradient over the logits.

    `train.losses.rows.row_losses` has the formulas. A row whose target is not a class gives NaN.

    Args:
        logits: float32, bfloat16 or float16 [M, C], contiguous.
        targets: int64 [M].
        alpha: Weight of the right, in [0, 1].
        right: bool [M], rows that count as right; None goes by the logits.
        softcap: Bound of the logits, by tanh; None leaves them unchanged.
        with_gradient: Write the gradient; else the logits keep their values.
    """
    rows, classes = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(_BLOCK, triton.next_power_of_2(classes))
    with torch.cuda.device_of(logits):
        _row_kernel[(rows,)](
            logits,
            targets,
            losses if right is None else right.to(torch.uint8),
            losses,
            classes,
            logits.stride(0),
            float(alpha),
            float(softcap or 1.0),
            math.log(classes),
            KNOWN=right is not None,
            CAPPED=softcap is not None,
            GRADIENT=with_gradient,
            BLOCK=block,
            num_warps=_WARPS if block == _BLOCK else 4,
        )
    return losses


def _row(  # noqa: PLR0915 - a kernel is one function
    logits_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    right_ptr: tl.tensor,
    losses_ptr: tl.tensor,
    classes: tl.tensor,
    stride: tl.tensor,
    alpha: tl.tensor,
    softcap: tl.tensor,
    log_classes: tl.tensor,
    KNOWN: tl.constexpr,
    CAPPED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    line = logits_ptr + row * stride
    target = tl.load(targets_ptr + row)
    columns = tl.arange(0, BLOCK)

    # -inf becomes a number whose exponential is 0, so that there is no inf - inf.
    top = -1e30
    first = 0
    mass = 0.0  # sum of exp(z - top)
    moment = 0.0  # sum of exp(z - top) * (z - top)
    for start in range(0, classes, BLOCK):
        inside = start + columns < classes
        z = tl.load(line + start + columns, mask=inside, other=float("-inf")).to(tl.float32)
        if CAPPED:
            z = tl.where(inside, softcap * (2.0 * tl.sigmoid(2.0 * z / softcap) - 1.0), z)
        z = tl.where(z < -1e30, -1e30, z)
        high, where = tl.max(z, axis=0, return_indices=True)
        first = tl.where(high > top, start + where, first)
        higher = tl.maximum(top, high)
        shrink = tl.exp(top - higher)
        moment = (moment + mass * (top - higher)) * shrink
        mass = mass * shrink
        top = higher
        share = tl.where(inside, tl.exp(z - top), 0.0)
        mass += tl.sum(share, axis=0)
        moment += tl.sum(tl.where(inside, share * (z - top), 0.0), axis=0)

    log_mass = tl.log(mass)
    total = top + log_mass
    total = tl.where(top > -1e30, total, float("nan"))  # no class is possible
    negative_entropy = moment / mass - log_mass
    known = (target >= 0) & (target < classes)
    picked = tl.load(line + target, mask=known, other=float("nan")).to(tl.float32)
    if CAPPED:
        picked = softcap * (2.0 * tl.sigmoid(2.0 * picked / softcap) - 1.0)
    picked = picked - total
    picked = tl.where(picked < -1e4, -1e4, picked)  # as `train.losses.rows` has it
    right = tl.load(right_ptr + row) != 0 if KNOWN else target == first
    kl = negative_entropy + log_classes
    loss = tl.where(right, -alpha * picked, (1.0 - alpha) * kl)
    # A NaN may hide in a maximum, but not in a sum.
    loss = tl.where(known & (total == total), loss, float("nan"))  # noqa: PLR0124
    tl.store(losses_ptr + row, loss)

    if GRADIENT:
        on_right = tl.where(right, alpha, 0.0)
        on_wrong = tl.where(right, 0.0, 1.0 - alpha)
        shift = on_right - on_wrong * negative_entropy
        for start in range(0, classes, BLOCK):
            inside = start + columns < classes
            z = tl.load(line + start + columns, mask=inside, other=float("-inf")).to(tl.float32)
            if CAPPED:
                z = tl.where(inside, softcap * (2.0 * tl.sigmoid(2.0 * z / softcap) - 1.0), z)
            log_p = tl.where(z < -1e30, -1e30, z) - total
            gradient = tl.exp(log_p) * (log_p * on_wrong + shift)
            gradient = tl.where(start + columns == target, gradient - on_right, gradient)
            if CAPPED:
                gradient = gradient * (1.0 - (z / softcap) * (z / softcap))
            tl.store(line + start + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)


_row_kernel: Any = triton.jit(_row) if _HAS_TRITON else None
