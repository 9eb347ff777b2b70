"""The losses that the commands offer, in the form the training loop wants them.

Each takes logits [n, C], labels [n] and the number of items its sum is divided by: with gradient
accumulation that is the items of all steps of the update, so 1 x 8 and 4 x 2 give the same update.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from train.loop import Loss
from train.loss import gatekeeper_loss

CROSS_ENTROPY = "cross_entropy"
GATEKEEPER = "gatekeeper"


def cross_entropy(logits: Tensor, labels: Tensor, items: int | Tensor) -> Tensor:
    """Return the cross-entropy summed over the rows, divided by `items`."""
    return F.cross_entropy(logits.float(), labels, reduction="sum") / items


def gatekeeper(logits: Tensor, labels: Tensor, items: int | Tensor, *, alpha: float) -> Tensor:
    """Return the Gatekeeper loss (paper, eq. 2) summed over the rows, divided by `items`."""
    return gatekeeper_loss(logits, labels, alpha, denominator=items)


def objective(name: str, alpha: float) -> Loss:
    """Return the loss of stage 2 by its name."""
    return cross_entropy if name == CROSS_ENTROPY else partial(gatekeeper, alpha=alpha)
