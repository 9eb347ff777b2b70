"""Learns, after training, when to defer: the deferral head of Narasimhan et al. 2022.

The target of an input is 1 where M_L is right and M_S wrong. It is estimated by an L2-regularised
logistic regression on M_S's features. Over standardised inputs z and targets y in {0, 1} it
minimises

    F(w, b) = 1/n sum_i [log(1 + exp(s_i)) - y_i s_i] + l2/2 |w|^2,   s_i = w . z_i + b

by scikit-learn's L-BFGS, with a free bias and a strength l2 that is chosen by cross-validation.

M_S knows its training data by heart, so the head is fitted on validation; to judge it there as
well, use the estimates of `predict_out_of_fold`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from train.data import LabelledData
from train.errors import CheckpointError, DataError
from train.models import Checkpoint, features_of
from train.models.deferral_head import head_inputs, sigmoid

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FOLDS = 5
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Strongest first: each fit starts where the one before ended."""
_FLAT = 1e-6
_TOLERANCE = 1e-7  # of the gradient of F
_MOST_STEPS = 2000


@dataclass(frozen=True, eq=False)
class HeadInputs:
    """The inputs of a deferral head for a split, and where M_S is right.

    Attributes:
        inputs: float64 [n, D]; of a classifier the penultimate features, then the max softmax.
        right: bool [n].
    """

    inputs: Floats
    right: Flags

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: LabelledData) -> HeadInputs:
        """Run M_S once on every input of a split.

        Raises:
            CheckpointError: The model does not end in a linear layer, or gives NaN or infinity.
        """
        features, logits = features_of(checkpoint, data.inputs)
        inputs = head_inputs(features, logits)
        odd = np.flatnonzero(~np.isfinite(inputs).all(axis=1))
        if odd.size:
            raise CheckpointError(
                f"expected finite features of every input, {checkpoint.path} gives NaN or infinity "
                f"for {odd.size} of {len(data)}, e.g. {data.ids[odd[0]]}: repair the model or "
                "leave these inputs out"
            )
        return cls(inputs, logits.argmax(axis=-1) == data.labels)


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted regression.

    Attributes:
        weight: float64 [D], of the inputs as they are, not standardised.
        bias: The logit where all inputs are 0.
        l2: The strength of the penalty.
    """

    weight: Floats
    bias: float
    l2: float

    def logit(self, inputs: Floats) -> Floats:
        """Return float64 [n] for inputs [n, D]."""
        return np.asarray(inputs @ self.weight + self.bias)


def fit_head(seen: HeadInputs, target: Flags, seed: int) -> Logistic:
    """Fit the head to targets bool [n]: where M_L is right and M_S wrong.

    Raises:
        DataError: The target holds too few of either value.
    """
    _require_both(target)
    return fit_by_cross_validation(seen.inputs, target, seed)


def predict_out_of_fold(seen: HeadInputs, target: Flags, seed: int) -> Floats:
    """Return P(defer), float64 [n], of each input by a head that did not see it.

    Raises:
        DataError: The target holds too few of either value.
    """
    _require_both(target)
    return sigmoid(out_of_fold_logits(seen.inputs, target, seed))


def _require_both(target: Flags) -> None:
    gained = int(target.sum())
    if min(gained, target.size - gained) < FOLDS:
        raise DataError(
            f"expected at least {FOLDS} inputs that M_L has right and M_S wrong, and {FOLDS} "
            f"others, got {gained} and {target.size - gained}: use more validation data or another "
            "M_L, or defer by max_softmax"
        )


def fit(inputs: Floats, target: Flags, l2: float) -> Logistic:
    """Fit a regression of bool [n], with both values, on finite float64 [n, D]."""
    return next(_fits(inputs, target, (l2,)))


def fit_by_cross_validation(inputs: Floats, target: Flags, seed: int) -> Logistic:
    """Fit a regression with the strength of `STRENGTHS` that has the least log-loss out of fold."""
    fold = stratified_folds(target, seed)
    losses = np.zeros(len(STRENGTHS))
    for out in (fold == k for k in range(FOLDS)):
        fits = _fits(inputs[~out], target[~out], STRENGTHS)
        losses += [_log_loss(model.logit(inputs[out]), target[out]) for model in fits]
    return fit(inputs, target, STRENGTHS[int(losses.argmin())])


def out_of_fold_logits(inputs: Floats, target: Flags, seed: int) -> Floats:
    """Return float64 [n]: each input's logit by a fit that saw neither it nor its target.

    The strength too is chosen without them, by cross-validation on the rest.
    """
    fold = stratified_folds(target, seed)
    logits = np.empty(len(target))
    for out in (fold == k for k in range(FOLDS)):
        model = fit_by_cross_validation(inputs[~out], target[~out], seed)
        logits[out] = model.logit(inputs[out])
    return logits


def stratified_folds(target: Flags, seed: int) -> npt.NDArray[np.int64]:
    """Return int64 [n]: a fold from 0 to `FOLDS` - 1, with either value spread evenly over them."""
    draws = np.random.default_rng(seed)
    fold = np.empty(len(target), np.int64)
    for value in (False, True):
        rows = draws.permutation(np.flatnonzero(target == value))
        fold[rows] = np.arange(rows.size) % FOLDS
    return fold


@dataclass(frozen=True, eq=False)
class _Scale:
    """Standardisation; a column that does not vary becomes 0, and so gets no weight."""

    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, inputs: Floats) -> _Scale:
        mean, std = inputs.mean(axis=0), inputs.std(axis=0)
        varies = std > _FLAT * np.abs(mean)
        return cls(mean, np.divide(1.0, std, out=np.zeros_like(std), where=varies))

    def __call__(self, inputs: Floats) -> Floats:
        return np.asarray((inputs - self.mean) * self.factor)

    def unscaled(self, weight: Floats, bias: float, l2: float) -> Logistic:
        """Return the regression on inputs as they are."""
        weight = weight * self.factor
        return Logistic(weight, float(bias - weight @ self.mean), l2)


def _fits(inputs: Floats, target: Flags, strengths: Sequence[float]) -> Iterator[Logistic]:
    """Yield a fit for each strength, each started from the one before."""
    scale = _Scale.of(inputs)
    scaled = scale(inputs)
    model = LogisticRegression(warm_start=True, tol=_TOLERANCE, max_iter=_MOST_STEPS)
    for l2 in strengths:
        model.set_params(C=1.0 / (l2 * len(target))).fit(scaled, target)
        yield scale.unscaled(model.coef_[0], model.intercept_[0], l2)


def _log_loss(logit: Floats, target: Flags) -> float:
    return float(np.sum(np.logaddexp(0.0, logit) - target * logit))
