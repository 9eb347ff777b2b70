"""Keeps tuning from doing harm: warnings before it, a stop in the middle, a comparison after it.

s_d and s_o are blind to collapse: an M_S that answers one class with calibrated doubt can have a
better s_d than the one it came from. What is watched here is what such a model loses first.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import TrainerCallback

from train.classifier.batches import EncodedData

_FEW_WRONG = 20
_SMALL_SHARE = 0.01
_MOST_LOST = 0.10
_LARGEST_CLASS = 0.5
_OVER_ITS_SHARE = 1.5
_BATCH = 512


def balance(alpha: float, accuracy: float) -> float:
    """Return rho = alpha a / ((1 - alpha)(1 - a)): the pull of the right over that of the wrong.

    Args:
        alpha: Weight of the right, in [0, 1].
        accuracy: Share a of the stage 2 data that is right.

    Returns:
        From 0 to infinity; under 1 the wrong pull harder than the right, and M_S forgets.
    """
    pull, push = alpha * accuracy, (1.0 - alpha) * (1.0 - accuracy)
    return pull / push if push > 0 else math.inf


def warnings_before(
    alpha: float,
    right: npt.NDArray[np.bool_],
    *,
    what: str = "inputs",
    remedy: str = "--stage2-data augment, holdout or crossfit",
) -> list[str]:
    """Return what is wrong with tuning on these data at this alpha, in words.

    Args:
        alpha: Weight of the right, in [0, 1].
        right: bool [n], which of the stage 2 data M_S gets right before tuning.
        what: What the data are made of.
        remedy: What to try where there is nothing wrong to learn from.
    """
    wrong, accuracy = int((~right).sum()), float(right.mean())
    found = []
    if wrong < max(_FEW_WRONG, _SMALL_SHARE * right.size):
        found.append(
            f"M_S is wrong on {wrong} of {right.size} {what} of the stage 2 data: there is next to "
            f"nothing to teach doubt from. Try {remedy}"
        )
    if balance(alpha, accuracy) < 1.0:
        found.append(
            f"rho = {balance(alpha, accuracy):.2f} at --alpha {alpha:g} and accuracy "
            f"{accuracy:.3f}: under 1 the wrong outweigh the right and M_S forgets. Take an alpha "
            f"over {1.0 - accuracy:.2f}"
        )
    return found


@dataclass(frozen=True)
class Health:
    """How a model does on validation.

    Attributes:
        accuracy: Share that is right.
        largest: Share of its predictions that fall on its most frequent class.
        allowed: The largest such share that is no collapse: a half, or 1.5 times the share that
            this class has among the labels.
    """

    accuracy: float
    largest: float
    allowed: float

    @classmethod
    def of(cls, predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Health:
        """Return the health of predictions int64 [n] against labels int64 [n]."""
        counts = np.bincount(predicted)
        top = int(counts.argmax())
        share = float((labels == top).mean())
        return cls(
            accuracy=float((predicted == labels).mean()),
            largest=float(counts[top] / predicted.size),
            allowed=max(_LARGEST_CLASS, _OVER_ITS_SHARE * share),
        )

    def illness(self, start: Health) -> str | None:
        """Return why this is a collapse of the model that was healthy at the start, or None."""
        if self.largest > self.allowed and self.largest > start.largest:
            return f"{self.largest:.0%} of the predictions on validation fall on one class"
        if self.accuracy < start.accuracy - _MOST_LOST:
            return (
                f"validation accuracy fell from {start.accuracy:.3f} to {self.accuracy:.3f}, more "
                f"than {_MOST_LOST:.0%}"
            )
        return None


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
