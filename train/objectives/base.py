"""What the training loop wants of a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One batch on its way through the loss.

    Attributes:
        logits: float [n, C].
        labels: int64 [n]; -100 where there is none.
        columns: What else is known of the rows, by name, each [n, ...].
        items: What a sum over rows is divided by. With gradient accumulation that is the items of
            all steps of the update, so 1 x 8 and 4 x 2 give the same update.
    """

    logits: Tensor
    labels: Tensor
    columns: Mapping[str, Tensor]
    items: int | Tensor


class Objective(ABC):
    """A loss of the training loop, with whatever is trained beside the model for it.

    Attributes:
        columns: Names of the columns that `loss` needs of every row.
    """

    columns: tuple[str, ...] = ()

    @abstractmethod
    def loss(self, step: Step) -> Tensor:
        """Return the scalar to minimise."""

    def attach(self, model: Any) -> None:  # noqa: B027 - most objectives train nothing beside it
        """Add to the model what is trained beside it; called once, before the optimizer is made."""

    def detach(self, model: Any) -> None:  # noqa: B027 - the same
        """Take it off again: a checkpoint holds the model alone."""
