"""Layers next to the classification head: they train the trunk, and are dropped afterwards."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import Tensor, nn

from train.errors import CheckpointError
from train.models.deferral_head import classification_head
from train.objectives.basic import CrossEntropy, Objective, Step


class Auxiliary(Objective):
    """Cross-entropy on the model's head plus another objective on a second head of its trunk.

    The second head starts as a copy of the first and is dropped after training: its effect on the
    trunk remains, and the model costs no more than before.

    Args:
        inner: The objective of the second head.
        weight: Factor of its loss.
    """

    def __init__(self, inner: Objective, weight: float = 1.0) -> None:
        self.inner = inner
        self.weight = weight
        self.columns = inner.columns
        self._own = CrossEntropy()
        self._side = SideHead("auxiliary_head")

    def attach(self, model: Any) -> None:
        """Put the second head next to the first, on the same features."""
        head = classification_head(model)
        self._side.attach(model, head, copy.deepcopy(head))

    def detach(self, model: Any) -> None:
        """Drop the second head."""
        self._side.detach(model)

    def loss(self, step: Step) -> Tensor:
        """Return the sum of both heads' losses."""
        other = dataclasses.replace(step, logits=self._side.output)
        return self._own.loss(step) + self.weight * self.inner.loss(other)


class SideHead:
    """A layer on the features that the classification head reads, active only in train mode.

    Args:
        name: Attribute of the model that holds the layer.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._output: Tensor | None = None
        self._hook: Any = None

    def attach(self, model: Any, head: nn.Linear, layer: nn.Module) -> None:
        """Put `layer` next to `head`; it is trained, moved and saved with the model."""
        model.add_module(self._name, layer)

        def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if model.training:
                features = _one_row_each(inputs[0], type(model).__name__)
                self._output = getattr(model, self._name)(features)

        self._hook = head.register_forward_pre_hook(read)

    def detach(self, model: Any) -> None:
        """Drop the layer."""
        self._hook.remove()
        delattr(model, self._name)

    @property
    def output(self) -> Tensor:
        """Output of the layer in the last forward pass in train mode, [n, ...].

        Raises:
            RuntimeError: There was none.
        """
        if self._output is None:
            raise RuntimeError("expected attach() and a forward pass in train mode before loss()")
        return self._output


def _one_row_each(features: Tensor, model: str) -> Tensor:
    """Refuse features of every token: which token the logits come from is not known here."""
    if features.ndim != 2:  # noqa: PLR2004 - [n, D]
        raise CheckpointError(
            f"expected a classification head that reads features [n, D], that of {model} reads "
            f"{list(features.shape)}: it cannot take a second head"
        )
    return features
