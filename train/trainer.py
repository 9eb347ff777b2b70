"""The Hugging Face Trainer with an objective that may know more of a row than its label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from train.objectives import CrossEntropy, Objective, Step


class ObjectiveTrainer(Trainer):
    """Trains with an objective; the validation loss is plain cross-entropy whatever it is.

    Args:
        objective: The loss.
        **settings: Those of `transformers.Trainer`.
    """

    def __init__(self, objective: Objective, **settings: Any) -> None:
        super().__init__(compute_loss_func=self._objective_loss, **settings)
        self._objective = objective
        self._columns: dict[str, Tensor] = {}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **settings: Any) -> Any:
        """Keep the columns from the model, which knows nothing of them."""
        self._columns = {n: inputs.pop(n) for n in self._objective.columns if n in inputs}
        return super().compute_loss(model, inputs, *args, **settings)

    def _get_num_items_in_batch(self, batch_samples: list[Any], *args: Any) -> Any:
        # Rows without a label are items as well: transformers counts labels, and would divide by 0.
        counted = [
            {**b, "labels": torch.zeros_like(b["labels"])} if b["labels"].ndim == 1 else b
            for b in batch_samples
        ]
        return super()._get_num_items_in_batch(counted, *args)

    def _objective_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Any:
        items = len(labels) if num_items_in_batch is None else num_items_in_batch
        step = Step(outputs.logits, labels, self._columns, items)
        return (self._objective if self.model.training else CrossEntropy()).loss(step)
