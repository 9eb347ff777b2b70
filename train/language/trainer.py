"""The Hugging Face Trainer for causal language models whose forward pass ends at hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Trainer

from train.language.encoding import IGNORED
from train.language.hidden import HiddenStates, OutputLayer
from train.losses.linear import linear_gatekeeper_loss

# MERGEDOC train/language/objectives.py: 'The losses over tokens, from hidden states and the output layer.'

Normalize = Literal["batch", "token"]


class LanguageTrainer(Trainer):
    """Trains with an objective over tokens; the validation loss is plain cross-entropy a token.

    Args:
        objective: The loss.
        layer: The output layer of the model.
        hidden: Switches its forward pass.
        normalize: What the sum over tokens is divided by: sequences (`batch`, eq. 4) or `token`s.
        **settings: Those of `transformers.Trainer`.
    """

    def __init__(
        self,
        objective: TokenObjective,
        layer: OutputLayer,
        hidden: HiddenStates,
        normalize: Normalize,
        **settings: Any,
    ) -> None:
        super().__init__(compute_loss_func=self._loss, **settings)
        self._objective = objective
        self._layer = layer
        self._hidden = hidden
        self._normalize = normalize

    def train(self, *args: Any, **settings: Any) -> Any:
        """Train with the forward pass cut off at the hidden states."""
        with self._hidden.instead_of_logits():
            return super().train(*args, **settings)

    def _get_num_items_in_batch(self, batch_samples: list[Any], *args: Any) -> Any:
        # transformers counts the labels that are not ignored, and gathers them over processes;
        # sequences are counted the same way, one label each. Version 5 would leave the first of a
        # row out, unless it is told that they are shifted already.
        whole = self._normalize == "batch"
        counted = [torch.zeros(len(b["labels"])) if whole else b["labels"] for b in batch_samples]
        batch_samples = [{"labels": labels, "shift_labels": labels} for labels in counted]
        return super()._get_num_items_in_batch(batch_samples, *args)

    def _loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
        hidden = outputs.logits
        if self.args.bf16 or self.args.fp16:
            # Autocast hands its results out in float32; the output layer is the biggest product.
            hidden = hidden.to(torch.bfloat16 if self.args.bf16 else torch.float16)
        if not self.model.training:
            tokens = (labels != IGNORED).sum().clamp(min=1)
            return TokenCrossEntropy().loss(hidden, self._layer, labels, tokens)
        items = len(labels) if num_items_in_batch is None else num_items_in_batch
        return self._objective.loss(hidden, self._layer, labels, items)


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
