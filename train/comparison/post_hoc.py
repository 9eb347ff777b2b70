"""Learns, after training, when to defer: the deferral head of Narasimhan et al. 2022.

    target_i = 1 where M_L is right and M_S wrong, estimated by logistic regression on what M_S
    makes of the input

M_S knows its training data by heart, so the head is fitted on validation; whoever also judges it
there takes the logits of `predict_out_of_fold`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data import LabelledData
from train.errors import CheckpointError, DataError

# MERGEDOC train/logistic.py: 'L2-regularised logistic regression, its strength chosen by cross-validation.\n\nOver standardised inputs z and targets y in {0, 1} it minimises\n\n    F(w, b) = 1/n sum_i [log(1 + exp(s_i)) - y_i s_i] + l2/2 |w|^2,   s_i = w . z_i + b\n\nby L-BFGS from scipy; the bias is free. The weights it returns are of the inputs as they came.\n'
from train.models import Checkpoint, features_of
from train.models.deferral_head import head_inputs, sigmoid

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FOLDS = 5
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Strongest first: each fit starts where the one before ended."""
_FLAT = 1e-6
_OPTIONS = {"maxiter": 2000, "gtol": 1e-7, "ftol": 1e-14}


@dataclass(frozen=True, eq=False)
class HeadInputs:
    """What M_S makes of a split.

    Attributes:
        inputs: What the head reads, float64 [n, D + 1]; the last is the max softmax.
        right: Where M_S is right, bool [n].
    """

    inputs: Floats
    right: Flags

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: LabelledData) -> HeadInputs:
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


def fit_head(seen: HeadInputs, target: Flags, seed: int) -> Logistic:
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


def predict_out_of_fold(seen: HeadInputs, target: Flags, seed: int) -> Floats:
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


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted regression.

    Attributes:
        weight: float64 [D].
        bias: The logit where all inputs are 0.
        l2: The strength it was fitted with.
    """

    weight: Floats
    bias: float
    l2: float

    def logit(self, inputs: Floats) -> Floats:
        """Return float64 [n] for inputs [n, D]."""
        return np.asarray(inputs @ self.weight + self.bias)


@dataclass(frozen=True, eq=False)
class _Scale:
    """Standardisation: a column that does not vary is all 0, and so gets no weight."""

    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, inputs: Floats) -> _Scale:
        mean, std = inputs.mean(axis=0), inputs.std(axis=0)
        varies = std > _FLAT * np.abs(mean)
        return cls(mean, np.divide(1.0, std, out=np.zeros_like(std), where=varies))

    def __call__(self, inputs: Floats) -> Floats:
        return np.asarray((inputs - self.mean) * self.factor)

    def folded(self, parameters: Floats, l2: float) -> Logistic:
        weight = parameters[:-1] * self.factor
        return Logistic(weight, float(parameters[-1] - weight @ self.mean), l2)


def objective(parameters: Floats, inputs: Floats, target: Flags, l2: float) -> tuple[float, Floats]:
    """Return (F, its gradient [D + 1]).

    Args:
        parameters: float64 [D + 1]: weights, then bias.
        inputs: Standardised, float64 [n, D].
        target: bool [n].
        l2: Strength.
    """
    weight = parameters[:-1]
    logit = inputs @ weight + parameters[-1]
    value = np.mean(np.logaddexp(0.0, logit) - target * logit) + l2 / 2 * weight @ weight
    residual = (np.exp(-np.logaddexp(0.0, -logit)) - target) / len(target)
    return float(value), np.append(inputs.T @ residual + l2 * weight, residual.sum())


def fit(inputs: Floats, target: Flags, l2: float) -> Logistic:
    """Fit with one strength.

    Args:
        inputs: Finite float64 [n, D].
        target: bool [n], with both values.
        l2: Strength, above 0.
    """
    return next(_path(inputs, target, (l2,)))


def fit_by_cross_validation(inputs: Floats, target: Flags, seed: int) -> Logistic:
    """Fit with the strength of `STRENGTHS` that has the least log-loss on inputs left out.

    Args:
        inputs: Finite float64 [n, D].
        target: bool [n], with more of both values than one.
        seed: Of the folds.
    """
    fold = stratified_folds(target, seed)
    losses = np.zeros(len(STRENGTHS))
    for out in (fold == k for k in range(FOLDS)):
        fits = _path(inputs[~out], target[~out], STRENGTHS)
        losses += [_log_loss(model.logit(inputs[out]), target[out]) for model in fits]
    return fit(inputs, target, STRENGTHS[int(losses.argmin())])


def out_of_fold_logits(inputs: Floats, target: Flags, seed: int) -> Floats:
    """Return float64 [n]: each input's logit by a fit that saw neither it nor its target.

    The strength too is chosen without them, by cross-validation on the rest.

    Args:
        inputs: Finite float64 [n, D].
        target: bool [n], with at least `FOLDS` of both values.
        seed: Of the folds.
    """
    fold = stratified_folds(target, seed)
    logits = np.empty(len(target))
    for out in (fold == k for k in range(FOLDS)):
        model = fit_by_cross_validation(inputs[~out], target[~out], seed)
        logits[out] = model.logit(inputs[out])
    return logits


def stratified_folds(target: Flags, seed: int) -> npt.NDArray[np.int64]:
    """Return int64 [n]: a fold from 0 to `FOLDS` - 1, of both values as many in each as can be."""
    draws = np.random.default_rng(seed)
    fold = np.empty(len(target), np.int64)
    for value in (False, True):
        rows = draws.permutation(np.flatnonzero(target == value))
        fold[rows] = np.arange(rows.size) % FOLDS
    return fold


def _path(inputs: Floats, target: Flags, strengths: Sequence[float]) -> Iterator[Logistic]:
    from scipy.optimize import minimize

    scale = _Scale.of(inputs)
    scaled = scale(inputs)
    share = target.mean()
    parameters = np.append(np.zeros(inputs.shape[1]), np.log(share / (1.0 - share)))
    for l2 in strengths:
        found = minimize(
            objective,
            parameters,
            (scaled, target, l2),
            method="L-BFGS-B",
            jac=True,
            options=_OPTIONS,
        )
        parameters = found.x
        yield scale.folded(parameters, l2)


def _log_loss(logit: Floats, target: Flags) -> float:
    return float(np.sum(np.logaddexp(0.0, logit) - target * logit))
