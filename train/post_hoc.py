"""Learns, after training, when to defer: the deferral head of Narasimhan et al. 2022.

    target_i = 1 where M_L is right and M_S wrong, estimated by logistic regression on what M_S
    makes of the input

M_S knows its training data by heart, so the head is fitted on validation; whoever also judges it
there takes the logits of `out_of_fold`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data import LabelledData
from train.errors import CheckpointError, DataError
from train.logistic import FOLDS, Logistic, fit_by_cross_validation, out_of_fold_logits
from train.models import Checkpoint, features_of
from train.models.deferral_head import head_inputs, sigmoid

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Seen:
    """What M_S makes of a split.

    Attributes:
        inputs: What the head reads, float64 [n, D + 1]; the last is the max softmax.
        right: Where M_S is right, bool [n].
    """

    inputs: Floats
    right: Flags

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: LabelledData) -> Seen:
        """Look at every input of a split once.

        Raises:
            CheckpointError: The model does not end in a linear layer, or gives NaN or infinity.
        """
        features, logits = features_of(checkpoint, data.inputs)
        inputs = head_inputs(features, logits)
        odd = np.flatnonzero(~np.isfinite(inputs).all(axis=1))
        if odd.size:
            raise CheckpointError(
                f"expected finite features of every input, {checkpoint.path} gives NaN or infinity "
                f"for {odd.size} of {len(data)}, e.g. {data.ids[odd[0]]}: mend the model or leave "
                "them out"
            )
        return cls(inputs, logits.argmax(axis=-1) == data.labels)


def fit_head(seen: Seen, target: Flags, seed: int) -> Logistic:
    """Fit the head.

    Args:
        seen: Of validation.
        target: Where M_L is right and M_S wrong, bool [n].
        seed: Of the folds that choose its strength.

    Raises:
        DataError: There are too few of either kind.
    """
    _require(target)
    return fit_by_cross_validation(seen.inputs, target, seed)


def out_of_fold(seen: Seen, target: Flags, seed: int) -> Floats:
    """Return P(defer), float64 [n], of each input by a head that did not see it.

    Args:
        seen: As `fit_head`.
        target: The same.
        seed: The same.

    Raises:
        DataError: The same.
    """
    _require(target)
    return sigmoid(out_of_fold_logits(seen.inputs, target, seed))


def _require(target: Flags) -> None:
    gained = int(target.sum())
    if min(gained, target.size - gained) < FOLDS:
        raise DataError(
            f"expected at least {FOLDS} inputs that M_L has right and M_S wrong, and {FOLDS} "
            f"others, got {gained} and {target.size - gained}: use more validation data or another "
            "M_L, or defer by max_softmax"
        )
