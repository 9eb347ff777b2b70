"""Plain cross-entropy: stage 1, and the control of every stage 2."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from train.objectives.base import Objective, Step


class CrossEntropy(Objective):
    """Cross-entropy, with label smoothing where asked (Szegedy et al. 2016, section 7).

    Args:
        smoothing: Share of a label that is spread over all classes, in [0, 1).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"expected smoothing in [0, 1), got {smoothing}")
        self.smoothing = smoothing

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy summed over the rows, divided by the items."""
        total = F.cross_entropy(
            step.logits.float(), step.labels, reduction="sum", label_smoothing=self.smoothing
        )
        return total / step.items
