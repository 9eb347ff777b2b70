"""A layer beside the classification head: what it teaches stays in the trunk, itself it goes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from train.errors import CheckpointError


class SideHead:
    """A layer on the features that the classification head reads, in train mode alone.

    Args:
        name: The name under which the model holds the layer.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._output: Tensor | None = None
        self._hook: Any = None

    def attach(self, model: Any, head: nn.Linear, layer: nn.Module) -> None:
        """Put `layer` beside `head`; it is trained, moved and saved with the model."""
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
        """What the layer gave in the last forward pass in train mode, [n, ...].

        Raises:
            RuntimeError: There was none.
        """
        if self._output is None:
            raise RuntimeError("expected attach() and a forward pass in train mode before loss()")
        return self._output


def _one_row_each(features: Tensor, model: str) -> Tensor:
    """Refuse features of every token: which of them the logits are taken from is not known here."""
    if features.ndim != 2:  # noqa: PLR2004 - [n, D]
        raise CheckpointError(
            f"expected a classification head that reads features [n, D], that of {model} reads "
            f"{list(features.shape)}: it takes no second head"
        )
    return features
