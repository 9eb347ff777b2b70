"""Array types, orderings, areas and argument checks that the metrics share.

The checks return arguments as float64 or bool [n], or raise an `InputError`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def least_confident_first(confidence: Floats) -> tuple[Indices, Indices]:
    """Return the order that defers the least confident first, and the ends of its tied groups.

    NaNs come first, below -inf, and are all tied: `not (NaN >= threshold)` defers them at every
    threshold.

    Returns:
        The sorting order [n], and the end (exclusive) of each group of equal values in it.
    """
    is_nan = np.isnan(confidence)
    order = np.lexsort((np.where(is_nan, 0.0, confidence), ~is_nan))
    ordered, nan = confidence[order], is_nan[order]
    same = (ordered[1:] == ordered[:-1]) | (nan[1:] & nan[:-1])
    return order, np.append(np.flatnonzero(~same) + 1, confidence.size)


def mid_ranks(confidence: Floats) -> Floats:
    """Return ranks from 1 (least confident) to n; tied values get the mean of their ranks."""
    order, ends = least_confident_first(confidence)
    starts = np.concatenate(([0], ends[:-1]))
    ranks = np.empty(confidence.size)
    ranks[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return ranks


def area(x: Floats, y: Floats) -> float:
    """Return the exact integral of the piecewise linear curve through the points (x, y)."""
    # numpy 1.26 knows only `trapz`, numpy 2.4 only `trapezoid`; both are supported.
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def numbers(name: str, values: npt.ArrayLike) -> Floats:
    """Return real numbers as float64 of any shape, or raise an `InputError`."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected {name} as an array of real numbers, got {error}: convert it first"
        ) from None
    if array.dtype.kind not in "bfiu":
        raise InputError(
            f"expected {name} as an array of real numbers, got {array.dtype}: convert it first"
        )
    return array.astype(np.float64)


def column(name: str, values: npt.ArrayLike, size: int | None = None) -> Floats:
    """Return `values` as float64 [n], n >= 1, or raise an `InputError` that calls them by `name`.

    Args:
        name: The argument's name in an error.
        values: n numbers.
        size: The expected n, if another argument determines it.
    """
    array = numbers(name, values)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"expected {name} with shape [n], n >= 1, got {list(array.shape)}")
    if size is not None and array.size != size:
        raise InputError(
            f"expected {size} values of {name}, as many as of confidence, got {array.size}"
        )
    return array


def quality(name: str, values: npt.ArrayLike, size: int, *, scalar: bool = False) -> Floats:
    """Return qualities in [0, 1] as float64 [n], a scalar for all n, or raise an `InputError`."""
    array = numbers(name, values)
    checked = (
        np.full(size, array.item()) if scalar and array.ndim == 0 else column(name, array, size)
    )
    outside = ~((checked >= 0.0) & (checked <= 1.0))
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(
            f"expected {name} in [0, 1] (1 right, 0 wrong, or a score between), "
            f"got {checked[row]} at row {row}: rescale or drop it"
        )
    return checked


def cascade(
    confidence: npt.ArrayLike, small_quality: npt.ArrayLike, large_quality: npt.ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Return a cascade's columns as float64 [n]; `large_quality` may be one number."""
    g = column("confidence", confidence)
    small = quality("small_quality", small_quality, g.size)
    return g, small, quality("large_quality", large_quality, g.size, scalar=True)


def right_or_wrong(name: str, values: npt.ArrayLike, size: int) -> Bools:
    """Return flags 0 and 1 as bool [n], or raise an `InputError` for other values or shapes."""
    array = column(name, values, size)
    foreign = (array != 0.0) & (array != 1.0)
    if foreign.any():
        row = int(np.argmax(foreign))
        raise InputError(
            f"expected only 0 (wrong) and 1 (right) in {name}, got {array[row]} at row {row}: "
            "threshold graded scores first, or use pearson for them"
        )
    return np.asarray(array == 1.0)


def share(name: str, value: float) -> float:
    """Return a number in [0, 1]; raise `InputError` for any other, NaN included."""
    if not 0.0 <= value <= 1.0:
        raise InputError(f"expected {name} in [0, 1], got {value}")
    return float(value)
