"""The Gatekeeper objective (Rabanser et al. 2025, eq. 2)."""

from __future__ import annotations

from torch import Tensor

from train.loss import gatekeeper_loss
from train.objectives.base import Objective, Step

RIGHT = "right"


class Gatekeeper(Objective):
    """Sure where the model is right, uncertain where it is wrong.

    Args:
        alpha: Weight of the right, in [0, 1].
        by_column: Take who is right from the column `right` bool [n], not from the batch's own
            logits, which are of train mode and of pictures that the model may know by heart.
    """

    def __init__(self, alpha: float, *, by_column: bool = False) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"expected alpha in [0, 1], got {alpha}")
        self.alpha = alpha
        self.columns = (RIGHT,) if by_column else ()

    def loss(self, step: Step) -> Tensor:
        """Return the loss summed over the rows, divided by the items."""
        return gatekeeper_loss(
            step.logits,
            step.labels,
            self.alpha,
            denominator=step.items,
            correct=step.columns.get(RIGHT),
        )
