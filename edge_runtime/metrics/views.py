"""Confidence over two views of an input, where the first leaves it near the threshold."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError
from edge_runtime.metrics.arrays import Bools, Floats
from edge_runtime.metrics.validation import column, share

# 0.4 * 10 may be 4.000...01 in binary, and would reach one rank too far.
_ROUNDING = 1e-9


def in_band(first: npt.ArrayLike, low: float, high: float) -> Bools:
    """Return which inputs need the second view: low <= first <= high, a NaN never, bool [n].

    Raises:
        InputError: `first` is not one-dimensional or empty.
    """
    g = column("first", first)
    return np.asarray((g >= low) & (g <= high))


def second_look(first: npt.ArrayLike, second: npt.ArrayLike, low: float, high: float) -> Floats:
    """Return the confidence after a second look: in the band the mean of two views.

    Args:
        first: Greatest softmax probability of the first view, [n].
        second: The second view's probability of the *first* view's prediction, [n]; looked at in
            the band alone.
        low: Least first confidence that is looked at again.
        high: Greatest; infinite limits take in every number.

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
        Two of the confidences; -inf and inf where the band reaches past the least and the greatest,
        inf and -inf where it is empty.

    Raises:
        InputError: `first` is no column, or a share is out of its range.

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
