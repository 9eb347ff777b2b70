"""Confidence functions g of a generated sequence, in float64.

A decoder records two numbers for each token it chose: the log-probability of the token and the
negative entropy of the whole distribution. Every kind here is computed from these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.errors import InputError
from edge_runtime.metrics.arrays import Bools, Floats, numbers
from edge_runtime.metrics.confidence import unit_neg_entropy

_Kind = Callable[[Floats, Floats, Bools], Floats]


def _mean(values: Floats, counted: Bools) -> Floats:
    return np.asarray(_sum(values, counted) / counted.sum(axis=-1))


def _sum(values: Floats, counted: Bools) -> Floats:
    return np.asarray(np.where(counted, values, 0.0).sum(axis=-1))


def _least(values: Floats, counted: Bools) -> Floats:
    return np.asarray(np.where(counted, values, np.inf).min(axis=-1, initial=np.inf))


def _first(values: Floats, counted: Bools) -> Floats:
    if not counted.shape[-1]:
        return np.full(counted.shape[:-1], np.nan)
    return np.asarray(np.take_along_axis(values, counted.argmax(-1)[..., None], axis=-1)[..., 0])


_KINDS: Final[dict[str, _Kind]] = {
    contract.NEG_ENTROPY: lambda entropy, _, counted: _mean(entropy, counted),
    contract.MEAN_LOGPROB: lambda _, logprob, counted: _mean(logprob, counted),
    contract.SUM_LOGPROB: lambda _, logprob, counted: _sum(logprob, counted),
    contract.MIN_PROB: lambda _, logprob, counted: np.exp(_least(logprob, counted)),
    contract.MAX_SOFTMAX: lambda _, logprob, counted: np.exp(_first(logprob, counted)),
}
_LOGARITHMS: Final = (contract.MEAN_LOGPROB, contract.SUM_LOGPROB)
SEQUENCE_KINDS: Final = tuple(_KINDS)
"""Names that `sequence_confidence` knows."""


def sequence_confidence(
    kind: str, *, neg_entropy: npt.ArrayLike, logprob: npt.ArrayLike, counted: npt.ArrayLike
) -> Floats:
    """Return one confidence for each generated sequence; higher is surer.

    - `neg_entropy`: mean negative predictive entropy (the paper's g_NENT, eq. 8);
    - `mean_logprob`: mean log-probability of the tokens, the log of the inverse perplexity;
    - `sum_logprob`: log-probability of the whole answer;
    - `min_prob`: probability of the least likely token;
    - `max_softmax`: probability of the first token; under greedy decoding it is the greatest.

    The end-of-sequence token is a token like any other.

    Args:
        kind: One of `SEQUENCE_KINDS`.
        neg_entropy: Negative entropies of the distributions, float [..., T].
        logprob: Log-probabilities of the chosen tokens, float [..., T].
        counted: Which tokens were generated, bool [..., T]; the others may hold anything.

    Returns:
        float64 [...]; NaN where no token was generated or a counted value of either array is NaN,
        and NaN defers.

    Raises:
        InputError: The kind is unknown or the shapes differ.

    Example:
        >>> half = [[-0.69314718, -0.69314718]]
        >>> sequence_confidence("min_prob", neg_entropy=half, logprob=half, counted=[[True, True]])
        array([0.5])
    """
    if kind not in _KINDS:
        raise InputError(f"expected one of {', '.join(_KINDS)}, got {kind!r}")
    entropies, logs = numbers("neg_entropy", neg_entropy), numbers("logprob", logprob)
    flags = numbers("counted", counted).astype(bool)
    if not entropies.shape == logs.shape == flags.shape or flags.ndim == 0:
        raise InputError(
            "expected neg_entropy, logprob and counted of one shape [..., tokens], got "
            f"{list(entropies.shape)}, {list(logs.shape)} and {list(flags.shape)}"
        )
    with np.errstate(invalid="ignore"):
        values = _KINDS[kind](entropies, logs, flags)
    # A model that failed at any token is not trusted, whichever tokens a kind uses.
    broken = (flags & (np.isnan(entropies) | np.isnan(logs))).any(axis=-1)
    return np.asarray(np.where(flags.any(axis=-1) & ~broken, values, np.nan))


def unit_sequence_confidence(kind: str, values: npt.ArrayLike, vocabulary: int) -> Floats:
    """Return a confidence mapped to [0, 1] in the same order, as s_o needs it.

    `neg_entropy` becomes 1 + g / log V, `mean_logprob` its exponential (the geometric mean of the
    token probabilities), `sum_logprob` its exponential (the probability of the answer); the others
    already are probabilities.

    Args:
        kind: One of `SEQUENCE_KINDS`.
        values: float [n].
        vocabulary: Vocabulary size V.

    Raises:
        InputError: The kind is unknown, or the vocabulary is empty.
    """
    if kind not in _KINDS:
        raise InputError(f"expected one of {', '.join(_KINDS)}, got {kind!r}")
    if vocabulary < 1:
        raise InputError(f"expected a vocabulary of at least 1 token, got {vocabulary}")
    if kind == contract.NEG_ENTROPY:
        return unit_neg_entropy(values, vocabulary)
    g = numbers("values", values)
    return np.asarray(np.exp(g)) if kind in _LOGARITHMS else g
