"""How well confidence tells right from wrong: AUROC, s_o, Pearson."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError
from edge_runtime.metrics.arrays import Floats, mid_ranks
from edge_runtime.metrics.density import density, overlap
from edge_runtime.metrics.validation import column, right_or_wrong

_NAN = float("nan")
# float32 arithmetic and 1 + g / log V overshoot [0, 1] by rounding; a wrong scale by far more.
_OVERSHOOT = 1e-6


def auroc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Return the probability that a right sample is surer than a wrong one; a tie counts half.

    Args:
        confidence: g [n]; NaN is the least confident, all NaNs tied.
        correct: 1 right, 0 wrong, [n].

    Returns:
        A value in [0, 1]; NaN where all are right or all wrong.

    Raises:
        InputError: Shapes differ or are empty, or `correct` holds anything but 0 and 1.

    Example:
        >>> auroc([0.9, 0.4, 0.6, 0.2], [1, 1, 0, 0])
        0.75
    """
    g = column("confidence", confidence)
    right = right_or_wrong("correct", correct, g.size)
    positives = int(right.sum())
    negatives = g.size - positives
    if positives == 0 or negatives == 0:
        return _NAN
    rank_sum = float(mid_ranks(g)[right].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def distributional_overlap(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Return s_o, the overlap of the confidence densities of right and wrong samples.

    The integral over [0, 1] of the lower of the two densities (the paper's s_o); see
    `edge_runtime.metrics.density` for the kernel. Lower is better.

    Args:
        confidence: g [n] in [0, 1]; NaN counts as 0. Map a negative entropy with
            `unit_neg_entropy` first.
        correct: 1 right, 0 wrong, [n].

    Returns:
        0 (apart) to 1 (the same); NaN where all are right or all wrong.

    Raises:
        InputError: Shapes differ or are empty, a confidence is outside [0, 1], or `correct` holds
            anything but 0 and 1.
    """
    g = _unit(column("confidence", confidence))
    right = right_or_wrong("correct", correct, g.size)
    if right.all() or not right.any():
        return _NAN
    return overlap(density(g[right]), density(g[~right]))


def _unit(g: Floats) -> Floats:
    known = np.where(np.isnan(g), 0.0, g)
    outside = (known < -_OVERSHOOT) | (known > 1.0 + _OVERSHOOT)
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(
            f"expected confidence in [0, 1] for s_o, got {g[row]} at row {row}: "
            "map it first (unit_neg_entropy for a negative entropy)"
        )
    return np.clip(known, 0.0, 1.0)


def pearson(confidence: npt.ArrayLike, quality: npt.ArrayLike) -> float:
    """Return the correlation of confidence and quality (the paper's figure for graded answers).

    Args:
        confidence: g [n].
        quality: Any score [n]. Pairs with a NaN on either side are dropped.

    Returns:
        A value in [-1, 1]; NaN where fewer than two pairs are left, a side is constant, or a value
        is infinite.

    Raises:
        InputError: Shapes differ or are empty.
    """
    g = column("confidence", confidence)
    q = column("quality", quality, g.size)
    kept = ~(np.isnan(g) | np.isnan(q))
    g, q = g[kept], q[kept]
    if not (_varies(g) and _varies(q)):
        return _NAN
    g, q = _centred(g), _centred(q)
    return float(np.clip((g @ q) / np.sqrt((g @ g) * (q @ q)), -1.0, 1.0))


def _varies(values: Floats) -> bool:
    return bool(values.size and np.isfinite(values).all() and values.min() < values.max())


def _centred(values: Floats) -> Floats:
    """Return values minus their mean, scaled so that the squares neither overflow nor vanish."""
    scaled = values / np.abs(values).max()
    return np.asarray(scaled - scaled.mean())
