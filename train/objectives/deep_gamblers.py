"""Deep Gamblers: each row is a bet on its class, with a part of the stake held back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edge_runtime.errors import SettingError
from train.objectives.abstention import Abstaining
from train.objectives.base import Step


class DeepGamblers(Abstaining):
    """The gambler's loss (Liu et al. 2019, "Deep Gamblers": abstaining by portfolio theory).

    A row's loss is -log(o p_y + p_{C+1}), with the pay-off o and p over the C classes and the
    abstention: whoever bets on the right class gets o times the stake, what is held back is kept.
    A greater o abstains less. The paper begins with some epochs of cross-entropy, which stage 1
    has done. Computed in float32; a row with the label -100 costs nothing.

    Args:
        payoff: o, over 1 and at most C.
    """

    def __init__(self, payoff: float) -> None:
        super().__init__()
        if not 1.0 < payoff < math.inf:
            raise ValueError(f"expected a payoff over 1, got {payoff}")
        self.payoff = payoff

    def attach(self, model: Any) -> None:
        """Put the abstention unit beside the classification head.

        Raises:
            SettingError: The pay-off is over the number of classes: a blind bet would gain.
            CheckpointError: The model does not end in a linear layer of its classes.
        """
        classes = model.config.num_labels
        if self.payoff > classes:
            raise SettingError(
                f"expected --payoff over 1 and at most {classes}, the number of classes, got "
                f"{self.payoff:g}: name a lower one"
            )
        super().attach(model)

    def loss(self, step: Step) -> Tensor:
        """Return the loss summed over the rows, divided by the items."""
        own, abstention = self._log_p(step)
        return -torch.logaddexp(own + math.log(self.payoff), abstention).sum() / step.items
