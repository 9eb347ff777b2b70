"""Confidence functions g of a model's logits, in float64.

In float32 the greatest softmax probability saturates at 1.0 for margins over 17.5; the resulting
ties make a model look unable to rank its answers.

Some gates average two views of an input if the first leaves the confidence near the threshold
(`second_look`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError
from edge_runtime.metrics.arrays import Bools, Floats, column, numbers, share

_ROUNDING = 1e-9  # 0.4 * 10 may be 4.000...01 in binary, and would reach one rank too far


def max_softmax(logits: npt.ArrayLike) -> Floats:
    """Return the greatest softmax probability (the paper's g_CL).

    Args:
        logits: float [..., C]; -inf marks an impossible class.

    Returns:
        float64 [...] in [1/C, 1]; NaN where a row holds NaN, +inf, or -inf alone.

    Raises:
        InputError: No class axis, or an empty one.

    Example:
        >>> max_softmax([[0.0, 0.0], [0.0, float("-inf")]])
        array([0.5, 1. ])
    """
    shifted = _below_greatest(logits)
    return np.asarray(1.0 / np.exp(shifted).sum(axis=-1))


def probability_of(logits: npt.ArrayLike, chosen: npt.ArrayLike) -> Floats:
    """Return the softmax probability of one class per row.

    Args:
        logits: float [n, C]; -inf marks an impossible class.
        chosen: int [n], in [0, C).

    Returns:
        float64 [n] in [0, 1]; NaN where a row holds NaN, +inf, or -inf alone.

    Raises:
        InputError: The shapes do not match, or a class is outside [0, C).

    Example:
        >>> probability_of([[0.0, 0.0], [0.0, float("-inf")]], [1, 1])
        array([0.5, 0. ])
    """
    weights = np.exp(_below_greatest(logits))
    classes = np.asarray(chosen)
    if weights.ndim != 2 or classes.shape != weights.shape[:1] or classes.dtype.kind not in "iu":  # noqa: PLR2004
        raise InputError(
            f"expected logits [n, classes] and n whole numbers, got {list(weights.shape)} and "
            f"{classes.dtype} {list(classes.shape)}"
        )
    if classes.size and not 0 <= classes.min() <= classes.max() < weights.shape[1]:
        raise InputError(
            f"expected classes from 0 to {weights.shape[1] - 1}, got {classes.min()} to "
            f"{classes.max()}"
        )
    picked = np.take_along_axis(weights, classes[:, None], axis=1)[:, 0]
    return np.asarray(picked / weights.sum(axis=-1))


def neg_entropy(logits: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """Return the negative predictive entropy; over tokens, its mean (the paper's g_NENT).

    Args:
        logits: float [..., V].
        mask: bool [..., T] for logits [..., T, V], True for tokens that count. The result is then
            the mean over these, [...]; NaN where none counts.

    Returns:
        float64 in [-log V, 0], NaN where a counted row holds NaN, +inf, or -inf alone.

    Raises:
        InputError: No vocabulary axis, an empty one, or a mask of another shape.

    Example:
        >>> neg_entropy([[0.0, float("-inf")]])
        array([0.])
    """
    shifted = _below_greatest(logits)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        # 0 log 0 = 0, but a NaN must stay NaN.
        terms = np.where(weights == 0.0, 0.0, weights * shifted)
    entropies = np.asarray(terms.sum(axis=-1) / total - np.log(total))
    return entropies if mask is None else _mean_counted(entropies, mask)


def unit_neg_entropy(g: npt.ArrayLike, classes: int) -> Floats:
    """Map a negative entropy from [-log V, 0] to [0, 1] by 1 + g / log V, as s_o needs it.

    Args:
        g: Negative entropies of any shape; NaN stays NaN.
        classes: C, or the vocabulary size V; with one class the result is 1, always sure.

    Raises:
        InputError: Fewer than one class.
    """
    if classes < 1:
        raise InputError(f"expected at least 1 class, got {classes}")
    values = numbers("g", g)
    if classes == 1:
        return np.where(np.isnan(values), values, 1.0)
    return np.asarray(1.0 + values / np.log(classes))


def _below_greatest(logits: npt.ArrayLike) -> Floats:
    """Return the logits minus the greatest of their row, to prevent exponential overflow."""
    z = numbers("logits", logits)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise InputError(f"expected logits with shape [..., classes], got {list(z.shape)}")
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(z - z.max(axis=-1, keepdims=True))


def _mean_counted(entropies: Floats, mask: npt.ArrayLike) -> Floats:
    counted = np.asarray(mask, dtype=bool)
    if counted.shape != entropies.shape or counted.ndim == 0:
        raise InputError(
            f"expected a mask with shape {list(entropies.shape)}, one flag per row of logits, "
            f"got {list(counted.shape)}"
        )
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(counted, entropies, 0.0).sum(axis=-1) / counted.sum(axis=-1))


def in_band(first: npt.ArrayLike, low: float, high: float) -> Bools:
    """Return which inputs need the second view, low <= first <= high, never for NaN, bool [n]."""
    g = column("first", first)
    return np.asarray((g >= low) & (g <= high))


def second_look(first: npt.ArrayLike, second: npt.ArrayLike, low: float, high: float) -> Floats:
    """Return the confidence after a second look: inside the band the mean of two views.

    Args:
        first: Greatest softmax probability of the first view, [n].
        second: The second view's probability of the *first* view's prediction, [n]; ignored outside
            the band.
        low: Lower limit of the band.
        high: Upper limit of the band; infinite limits include every number.

    Returns:
        float64 [n]; NaN where `first` is, and in the band where `second` is.

    Raises:
        InputError: Shapes differ or are empty.

    Example:
        >>> second_look([0.5, 0.9], [0.25, 0.1], 0.4, 0.6)
        array([0.375, 0.9  ])
    """
    g = column("first", first)
    other = column("second", second, g.size)
    return np.asarray(np.where(in_band(g, low, high), (g + other) / 2, g))


def band_limits(first: npt.ArrayLike, ratio: float, band: float) -> tuple[float, float]:
    """Return the least and greatest first confidence within `band` ranks of the threshold.

    Args:
        first: First confidences [n]; NaN ranks lowest, as it is deferred first.
        ratio: Deferral ratio in [0, 1], the threshold's rank.
        band: Half-width in ranks as a share of n, >= 0: 0.1 is 10 percentile ranks on either side,
            1 is every input, 0 none.

    Returns:
        Two of the confidences; -inf and inf where the band extends past the least and the greatest,
        inf and -inf where it is empty.

    Raises:
        InputError: `first` is not one-dimensional or is empty, or a share is out of range.

    Example:
        >>> band_limits([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 0.3, 0.1)
        (0.3, 0.4)
    """
    g = column("first", first)
    share("ratio", ratio)
    if not band >= 0:
        raise InputError(f"expected a band of at least 0 ranks, got {band}")
    if band == 0:
        return math.inf, -math.inf
    ordered = np.sort(np.where(np.isnan(g), -np.inf, g))
    least, most = ratio - band, ratio + band
    first_rank = min(math.floor(max(least, 0) * g.size + _ROUNDING), g.size - 1)
    last_rank = max(math.ceil(min(most, 1) * g.size - _ROUNDING) - 1, 0)
    low = -math.inf if least <= 0 else float(ordered[first_rank])
    high = math.inf if most >= 1 else float(ordered[last_rank])
    return low, high
