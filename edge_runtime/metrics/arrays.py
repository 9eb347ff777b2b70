"""Checks and orderings that the metrics share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError

Floats = npt.NDArray[np.float64]


def column(name: str, values: npt.ArrayLike, size: int | None = None) -> Floats:
    """Return `values` as float64 [n].

    Args:
        name: What to call it in an error.
        values: n numbers, or one number where `size` is given.
        size: The expected n.

    Raises:
        InputError: Not one-dimensional, empty, or of another length.
    """
    array = np.asarray(values, dtype=np.float64)
    if size is not None and array.ndim == 0:
        return np.full(size, float(array))
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"expected {name} with shape [n], n >= 1, got {list(array.shape)}")
    if size is not None and array.size != size:
        raise InputError(f"expected {size} values of {name}, got {array.size}")
    return array


def binary(name: str, values: npt.ArrayLike, size: int) -> npt.NDArray[np.bool_]:
    """Return right-or-wrong flags as bool [n]; raise `InputError` for anything but 0 and 1."""
    array = column(name, values, size)
    if not np.isin(array, (0.0, 1.0)).all():
        raise InputError(f"expected only 0 and 1 in {name}, got {array[:5].tolist()} ...")
    return array == 1.0


def least_confident_first(confidence: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
    """Return the sorting order, NaN first, and the values in it with NaN as -inf.

    A NaN is less sure than any number, so finite and infinite values keep their order above it.
    """
    is_nan = np.isnan(confidence)
    order = np.lexsort((np.where(is_nan, 0.0, confidence), ~is_nan))
    return order, confidence[order]


def group_ends(ordered: Floats) -> npt.NDArray[np.intp]:
    """Return the end (exclusive) of each group of equal values in a sorted array; NaNs are equal."""
    same = (ordered[1:] == ordered[:-1]) | (np.isnan(ordered[1:]) & np.isnan(ordered[:-1]))
    return np.append(np.flatnonzero(~same) + 1, ordered.size)
