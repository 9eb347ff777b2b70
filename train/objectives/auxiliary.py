"""A second head on the trunk takes the objective, while the model's own keeps cross-entropy."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from train.errors import CheckpointError
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


def classification_head(model: Any) -> nn.Linear:
    """Return the linear layer that gives the logits.

    Raises:
        CheckpointError: The model does not end in one.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1].out_features != model.config.num_labels:
        raise CheckpointError(
            f"expected a model that ends in a linear layer of {model.config.num_labels} logits, "
            f"{type(model).__name__} does not: it takes no second head"
        )
    return linear[-1]


def penultimate_features(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return (features [n, D] that the head reads, logits [n, C]) of one forward pass."""
    seen: list[Tensor] = []
    hook = classification_head(model).register_forward_pre_hook(
        lambda _, features: seen.append(features[0])
    )
    try:
        with torch.inference_mode():
            logits = model(**inputs).logits
    finally:
        hook.remove()
    return seen[-1], logits
