"""A second head on the trunk takes the objective, while the model's own keeps cross-entropy."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import Tensor, nn

from train.models.features import classification_head
from train.objectives.base import Objective, Step
from train.objectives.cross_entropy import CrossEntropy

__all__ = ["Auxiliary", "classification_head"]

_NAME = "auxiliary_head"


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
        self._logits: Tensor | None = None
        self._hook: Any = None

    def attach(self, model: Any) -> None:
        """Put the second head beside the first one, on the same features."""
        head = classification_head(model)
        model.add_module(_NAME, copy.deepcopy(head))

        def second(_: nn.Module, features: tuple[Tensor, ...]) -> None:
            if model.training:
                self._logits = getattr(model, _NAME)(features[0])

        self._hook = head.register_forward_pre_hook(second)

    def detach(self, model: Any) -> None:
        """Drop it."""
        self._hook.remove()
        delattr(model, _NAME)

    def loss(self, step: Step) -> Tensor:
        """Return the sum of both heads' losses."""
        if self._logits is None:
            raise RuntimeError("expected attach() and a forward pass in train mode before loss()")
        other = dataclasses.replace(step, logits=self._logits)
        return self._own.loss(step) + self.weight * self.inner.loss(other)
