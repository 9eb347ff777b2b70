"""The Gatekeeper objective (Rabanser et al. 2025, eq. 2)."""

from __future__ import annotations

from torch import Tensor

from train.loss import gatekeeper_loss
from train.objectives.base import Objective, Step


class Gatekeeper(Objective):
    """Sure where the model is right, uncertain where it is wrong.

    Args:
        alpha: Weight of the right, in [0, 1].
    """

    def __init__(self, alpha: float) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"expected alpha in [0, 1], got {alpha}")
        self.alpha = alpha

    def loss(self, step: Step) -> Tensor:
        """Return the loss summed over the rows, divided by the items."""
        return gatekeeper_loss(step.logits, step.labels, self.alpha, denominator=step.items)
