"""The health of a model in tuning: warnings before it, signs of collapse, a comparison after it.

s_d and s_o are blind to collapse: an M_S that gives one answer to everything, with calibrated
doubt, can have a better s_d than the model it came from. The figures here are those that such a
model loses first.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime import metrics

_FEW_WRONG = 20
_SMALL_SHARE = 0.01
_MOST_LOST = 0.10
_WIDEST = 0.25  # the largest variance of right and wrong
_LARGEST_CLASS = 0.5
_OVER_ITS_SHARE = 1.5
_RATIO = 0.3
_LARGEST_DROP = 0.01
Floats = npt.NDArray[np.float64]


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
    """Return the reasons why tuning on these data at this alpha may do harm.

    Args:
        alpha: Weight of the right, in [0, 1].
        right: bool [n], which of the stage 2 data M_S gets right before tuning.
        what: Name of one item of the data, in the plural.
        remedy: Advice for data that hold next to nothing wrong.
    """
    wrong, accuracy = int((~right).sum()), float(right.mean())
    found = []
    if wrong < max(_FEW_WRONG, _SMALL_SHARE * right.size):
        found.append(
            f"M_S is wrong on {wrong} of {right.size} {what} of the stage 2 data: too few to learn "
            f"doubt from. Try {remedy}"
        )
    if balance(alpha, accuracy) < 1.0:
        found.append(
            f"rho = {balance(alpha, accuracy):.2f} at --alpha {alpha:g} and accuracy "
            f"{accuracy:.3f}: below 1 the wrong outweigh the right and M_S forgets. Choose an "
            f"alpha above {1.0 - accuracy:.2f}"
        )
    return found


@dataclass(frozen=True)
class Health:
    """Accuracy and variety of a model's predictions on validation.

    Attributes:
        accuracy: Share that is right.
        largest: Share of its predictions that fall on its most frequent class.
        allowed: The largest such share that is no collapse: a half, or 1.5 times the share that
            this class has among the labels.
        lossable: The largest fall of the accuracy that is no collapse: 10 points, or two standard
            errors of the accuracy of so few inputs.
    """

    accuracy: float
    largest: float
    allowed: float
    lossable: float = _MOST_LOST

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
            lossable=max(_MOST_LOST, 2 * math.sqrt(_WIDEST / predicted.size)),
        )

    def illness(self, start: Health) -> str | None:
        """Return the sign of collapse since the start, or None for a healthy model."""
        if self.largest > self.allowed and self.largest > start.largest:
            return f"{self.largest:.0%} of the predictions on validation fall on one class"
        if self.accuracy < start.accuracy - self.lossable:
            return (
                f"validation accuracy fell from {start.accuracy:.3f} to {self.accuracy:.3f}, more "
                f"than {self.lossable:.0%}"
            )
        return None


@dataclass(frozen=True)
class Standing:
    """Confidence and correctness of M_S on validation, each float64 [n]."""

    confidence: Floats
    right: Floats

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return float(self.right.mean())

    def joint_accuracy(self, large_right: Floats | None) -> float:
        """Return the joint accuracy at 30 % deferral; a perfect M_L stands in for None."""
        quality = 1.0 if large_right is None else large_right
        return metrics.joint_accuracy_at(self.confidence, self.right, quality, _RATIO)


def report(
    before: Standing, after: Standing, large_right: Floats | None, where: str = "validation"
) -> None:
    """Print what tuning changed, and warn on standard error if M_S lost accuracy.

    Args:
        before: The model that was tuned, on validation.
        after: The tuned model, on the same inputs.
        large_right: float64 [n], 1 where M_L is right; None for a perfect M_L.
        where: Name of the inputs.
    """
    what = "a perfect M_L (name yours with --large)" if large_right is None else "M_L"
    print(
        f"{where}: acc(M_S) {before.accuracy:.4f} -> {after.accuracy:.4f}, joint accuracy at "
        f"{_RATIO:.0%} with {what} {before.joint_accuracy(large_right):.4f} -> "
        f"{after.joint_accuracy(large_right):.4f}",
        flush=True,
    )
    if after.accuracy < before.accuracy - _LARGEST_DROP:
        print(
            f"warning: M_S lost {before.accuracy - after.accuracy:.1%} of accuracy: compare with "
            "the control (--objective cross_entropy) before you ship it",
            file=sys.stderr,
        )
