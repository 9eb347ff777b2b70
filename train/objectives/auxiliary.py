"""A second head on the trunk takes the objective, while the model's own keeps cross-entropy."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import Tensor

from train.models.features import classification_head
from train.objectives.base import Objective, Step
from train.objectives.cross_entropy import CrossEntropy
from train.objectives.side_head import SideHead


class Auxiliary(Objective):
    """Cross-entropy on the model's head plus another objective on a second head of its trunk.

    The second head starts as a copy of the first and is dropped after training: what it teaches
    stays in the trunk, and the model costs no more than before.

    Args:
        inner: The objective of the second head.
        weight: What its loss is multiplied by.
    """

    def __init__(self, inner: Objective, weight: float = 1.0) -> None:
        self.inner = inner
        self.weight = weight
        self.columns = inner.columns
        self._own = CrossEntropy()
        self._side = SideHead("auxiliary_head")

    def attach(self, model: Any) -> None:
        """Put the second head beside the first one, on the same features."""
        head = classification_head(model)
        self._side.attach(model, head, copy.deepcopy(head))

    def detach(self, model: Any) -> None:
        """Drop it."""
        self._side.detach(model)

    def loss(self, step: Step) -> Tensor:
        """Return the sum of both heads' losses."""
        other = dataclasses.replace(step, logits=self._side.output)
        return self._own.loss(step) + self.weight * self.inner.loss(other)
