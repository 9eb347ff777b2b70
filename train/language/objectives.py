"""The losses over tokens, from hidden states and the output layer."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from train.language.hidden import OutputLayer
from train.linear_loss import linear_gatekeeper_loss


class TokenObjective(ABC):
    """A loss summed over the tokens that count."""

    @abstractmethod
    def loss(
        self, hidden: Tensor, layer: OutputLayer, labels: Tensor, items: float | Tensor
    ) -> Tensor:
        """Return the scalar to minimise.

        Args:
            hidden: float [n, T, D].
            layer: What makes logits of them.
            labels: int64 [n, T]: the token that each position has to predict, -100 for none.
            items: What the sum is divided by: sequences (eq. 4) or tokens of all steps and
                processes of an update, so that 1 x 8 and 4 x 2 give the same.
        """


class TokenGatekeeper(TokenObjective):
    """Rabanser et al. 2025, eq. 4 and 5: sure where a token is right, uncertain where it is wrong.

    Args:
        alpha: Weight of the right, in [0, 1].
    """

    def __init__(self, alpha: float) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"expected alpha in [0, 1], got {alpha}")
        self.alpha = alpha

    def loss(
        self, hidden: Tensor, layer: OutputLayer, labels: Tensor, items: float | Tensor
    ) -> Tensor:
        """Return the loss summed over the tokens, divided by the items."""
        return linear_gatekeeper_loss(
            hidden,
            layer.weight,
            labels,
            self.alpha,
            bias=layer.bias,
            softcap=layer.softcap,
            denominator=items,
        )


class TokenCrossEntropy(TokenObjective):
    """Plain cross-entropy: stage 1, and the control of stage 2."""

    def loss(
        self, hidden: Tensor, layer: OutputLayer, labels: Tensor, items: float | Tensor
    ) -> Tensor:
        """Return the cross-entropy summed over the tokens, divided by the items."""
        # Where every token counts as right and alpha is 1, nothing else is left of the loss.
        return linear_gatekeeper_loss(
            hidden,
            layer.weight,
            labels,
            1.0,
            bias=layer.bias,
            softcap=layer.softcap,
            denominator=items,
            correct=torch.ones_like(labels, dtype=torch.bool),
        )
