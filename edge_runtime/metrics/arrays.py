"""Array types, orderings and areas that the metrics share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def least_confident_first(confidence: Floats) -> tuple[Indices, Indices]:
    """Return the order that defers the least confident first, and where its tied groups end.

    NaNs come first, below -inf, and are all tied: `not (NaN >= threshold)` defers them at every
    threshold, and nothing tells one from another.

    Returns:
        The sorting order [n], and the end (exclusive) of each group of equal values in it.
    """
    is_nan = np.isnan(confidence)
    order = np.lexsort((np.where(is_nan, 0.0, confidence), ~is_nan))
    ordered, nan = confidence[order], is_nan[order]
    same = (ordered[1:] == ordered[:-1]) | (nan[1:] & nan[:-1])
    return order, np.append(np.flatnonzero(~same) + 1, confidence.size)


def mid_ranks(confidence: Floats) -> Floats:
    """Return ranks from 1 (least confident) to n; tied values share the mean of their ranks."""
    order, ends = least_confident_first(confidence)
    starts = np.concatenate(([0], ends[:-1]))
    ranks = np.empty(confidence.size)
    ranks[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return ranks


def area(x: Floats, y: Floats) -> float:
    """Return the exact integral of the piecewise linear curve through the points (x, y)."""
    # numpy 1.26 knows only `trapz`, numpy 2.4 only `trapezoid`; both are supported.
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
