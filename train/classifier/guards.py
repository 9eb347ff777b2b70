"""Ends the tuning of a classifier that collapses, and predicts with a model in training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainerCallback

from train.classifier.batches import EncodedData
from train.training.health import Health

_BATCH = 512


class Collapse(TrainerCallback):
    """Ends a run that collapses, with the weights of its last good epoch.

    Args:
        model: The model in training.
        validation: What it is looked at on, once before training and after every epoch.

    Attributes:
        reason: Why the run was ended, or None.
    """

    def __init__(self, model: Any, validation: EncodedData) -> None:
        self._validation = validation
        self._start = self._health(model)
        self._good = copy.deepcopy(model.state_dict())
        self.reason: str | None = None

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Look, and end the run before a collapsed epoch is saved."""
        illness = self._health(model).illness(self._start)
        if illness is None:
            self._good = copy.deepcopy(model.state_dict())
            return
        self.reason = f"stopped in epoch {state.epoch:.0f}: {illness}"
        control.should_training_stop = True
        control.should_save = False

    def conclude(self, model: Any) -> str | None:
        """Return why the run was ended, the model then having the weights of the last good epoch.

        Where no epoch was good these are the weights of the start.
        """
        if self.reason is not None:
            model.load_state_dict(self._good)
        return self.reason

    def _health(self, model: Any) -> Health:
        return Health.of(predictions(model, self._validation), self._validation.labels)


def predictions(model: Any, data: EncodedData) -> npt.NDArray[np.int64]:
    """Return the predicted classes int64 [n] in eval mode; the model's own mode is kept."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(data), _BATCH):
            batch = data.inputs_at(range(start, min(start + _BATCH, len(data))))
            logits = model(**{k: v.to(device) for k, v in batch.items()}).logits
            parts.append(logits.argmax(dim=-1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(parts)
