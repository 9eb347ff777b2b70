"""The loss and the gradients of an output layer, computed chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from train.losses import kernel
from train.losses.rows import BLOCK_BYTES, row_losses, scratch_for, wide_type

CHUNK_BYTES = {"cpu": 256 << 20, "cuda": 512 << 20}
"""Size limit of the logits of a chunk, by device.

Each chunk reads and writes the whole gradient of the layer once more, and in a product of few rows
the processor waits for the weight: so chunks are as large as the memory saved allows.
"""
_DEVICE_BLOCK_BYTES = 64 << 20  # a kernel on such a block takes far longer than its launch
_SLAB_BYTES = 16 << 20
_AMPERE = (8, 0)

Wanted = tuple[bool, ...]
"""Whether the gradients of hidden states, weight and bias are wanted."""


@dataclass(frozen=True)
class Terms:
    """Inputs of the loss of M rows besides their logits.

    Attributes:
        targets: int64 [M].
        alpha: Weight of the right, in [0, 1].
        right: bool [M], rows that count as right; None goes by the logits.
        softcap: Bound of the logits, by tanh; None leaves them unchanged.
    """

    targets: Tensor
    alpha: float
    right: Tensor | None
    softcap: float | None


class _Gradient(NamedTuple):
    total: Tensor
    dtype: torch.dtype  # of the result; the sum may be wider

    def scaled(self, scale: Tensor) -> Tensor:
        """Return the gradient times a scalar, in its own memory if the type allows."""
        total = self.total
        if total.device.type != "cpu":
            # Comparing the scale would make the host wait for the device.
            if total.dtype == self.dtype:
                return total.mul_(scale)
            return torch.mul(total, scale, out=torch.empty_like(total, dtype=self.dtype))
        return (total if scale == 1 else total.mul_(scale)).to(self.dtype)


class Gradients(NamedTuple):
    """The gradients of a sum of losses; None for those that are not wanted."""

    rows: _Gradient | None
    weight: _Gradient | None
    bias: _Gradient | None

    def scaled(self, scale: Tensor) -> list[Tensor | None]:
        """Return the gradients times a scalar; their sums must not be used afterwards."""
        return [None if one is None else one.scaled(scale) for one in self]


def chunked_loss(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    terms: Terms,
    wanted: Wanted,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Gradients]:
    """Return the sum of the losses of `rows @ weight.T + bias` and its gradients.

    Args:
        rows: float [M, D].
        weight: float [V, D].
        bias: float [V].
        terms: Further inputs of the losses.
        wanted: The gradients to form.
        chunk_tokens: Rows whose logits are held at once.
    """
    layer = weight.to(rows.dtype)
    offset = None if bias is None else bias.to(rows.dtype)
    step = _chunk_rows(rows, weight, wanted[1], chunk_tokens)
    gradients = _empty_gradients(rows, weight, bias, wanted, one_chunk=step >= len(rows))
    total = torch.zeros((), dtype=wide_type(rows.dtype), device=rows.device)
    logits = rows.new_empty(min(step, len(rows)), len(weight))
    for start in range(0, len(rows), step):
        chunk = slice(start, start + step)
        part = logits[: len(rows[chunk])]
        _multiply(rows[chunk], layer, offset, part)
        # From here on `part` holds the gradient of the logits.
        total += _in_place(part, terms, chunk, with_gradient=any(wanted)).sum()
        _add(gradients, part, rows, layer, chunk)
    return total, gradients


def _chunk_rows(rows: Tensor, weight: Tensor, with_weight: bool, fixed: int | None) -> int:
    """Return the rows per chunk: as few chunks as the memory allows, about equal in size."""
    if fixed is not None:
        return fixed
    row_bytes = len(weight) * rows.dtype.itemsize
    budget = CHUNK_BYTES.get(rows.device.type, CHUNK_BYTES["cuda"])
    if with_weight and _may_skip_sum(rows, weight):
        # Several chunks need the float32 sum as well: one may take the memory of both.
        budget += weight.numel() * torch.float32.itemsize
    most = max(1, budget // row_bytes)
    chunks = max(1, -(-len(rows) // most))
    return max(1, -(-len(rows) // chunks))


def _may_skip_sum(rows: Tensor, weight: Tensor) -> bool:
    # Not float16: before it is scaled, the gradient could exceed its range.
    return rows.dtype == weight.dtype == torch.bfloat16


def _empty_gradients(
    rows: Tensor, weight: Tensor, bias: Tensor | None, wanted: Wanted, *, one_chunk: bool
) -> Gradients:
    wide = wide_type(rows.dtype)
    kept = rows.dtype if one_chunk and _may_skip_sum(rows, weight) else wide
    # The first chunk overwrites it; without rows it must be zero.
    fill = torch.empty_like if len(rows) else torch.zeros_like
    with_rows, with_weight, with_bias = wanted
    contiguous = torch.contiguous_format
    return Gradients(
        _Gradient(torch.empty_like(rows, memory_format=contiguous), rows.dtype)
        if with_rows
        else None,
        _Gradient(fill(weight, dtype=kept, memory_format=contiguous), weight.dtype)
        if with_weight
        else None,
        _Gradient(torch.zeros_like(bias, dtype=wide), bias.dtype)
        if with_bias and bias is not None
        else None,
    )


def _multiply(rows: Tensor, layer: Tensor, offset: Tensor | None, out: Tensor) -> None:
    if offset is None:
        torch.mm(rows, layer.t(), out=out)
    else:
        torch.addmm(offset, rows, layer.t(), out=out)


def _in_place(logits: Tensor, terms: Terms, chunk: slice, *, with_gradient: bool) -> Tensor:
    """Return the losses [m] of a chunk; write the gradient over its logits."""
    targets = terms.targets[chunk]
    right = None if terms.right is None else terms.right[chunk]
    if kernel.fits(logits):
        return kernel.losses_in_place(
            logits, targets, terms.alpha, right, terms.softcap, with_gradient=with_gradient
        )
    losses = []
    step = _block_rows(logits)
    scratch = scratch_for(logits, step, with_softcap=terms.softcap is not None)
    for start in range(0, len(logits), step):
        rows = slice(start, start + step)
        block = logits[rows]
        known = None if right is None else right[rows]
        gradient = block if with_gradient else None
        inputs = block, targets[rows], None, terms.alpha, gradient, scratch, known, terms.softcap
        losses.append(row_losses(*inputs))
    return torch.cat(losses)


def _block_rows(logits: Tensor) -> int:
    if logits.device.type != "cpu":
        budget, at_least = _DEVICE_BLOCK_BYTES, 1
    else:
        # The threads divide a block by rows, and each has a cache of its own.
        at_least = torch.get_num_threads()
        budget = BLOCK_BYTES * at_least
    return max(at_least, budget // (logits.shape[-1] * wide_type(logits.dtype).itemsize))


def _add(gradients: Gradients, grad: Tensor, rows: Tensor, layer: Tensor, chunk: slice) -> None:
    """Add a chunk's share; `grad` is the gradient [m, V] of its logits."""
    if gradients.rows is not None:
        torch.mm(grad, layer, out=gradients.rows.total[chunk])
    if gradients.weight is not None:
        _add_product(gradients.weight.total, grad.t(), rows[chunk], first=chunk.start == 0)
    if gradients.bias is not None:
        gradients.bias.total.add_(grad.sum(dim=0, dtype=gradients.bias.total.dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Add left @ right to `total` [V, D] without a second tensor of that size."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=0 if first else 1)
    elif not _sums_wide(total):
        _add_by_slabs(total.zero_() if first else total, left, right)
    elif first:
        torch.mm(left, right, out_dtype=total.dtype, out=total)
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)


def _sums_wide(total: Tensor) -> bool:
    """Return whether half-precision products can be summed in float32: CUDA, from torch 2.8."""
    return (
        total.device.type == "cuda"
        and torch.version.hip is None
        and hasattr(torch.ops.aten.addmm, "dtype_out")
        and torch.cuda.get_device_capability(total.device) >= _AMPERE
    )


def _add_by_slabs(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add half-precision products to a float32 sum, a part of the vocabulary at a time."""
    step = max(1, _SLAB_BYTES // (total.shape[-1] * left.dtype.itemsize))
    for start in range(0, len(total), step):
        total[start : start + step].add_(left[start : start + step] @ right)
