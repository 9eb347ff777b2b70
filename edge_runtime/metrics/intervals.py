"""Bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A percentile interval; NaN on both sides where the statistic was never defined.

    Attributes:
        low: Lower end.
        high: Upper end.
        undefined: Share of the resamples whose statistic was not finite and was left out; the
            interval speaks only for the others.
    """

    low: float
    high: float
    undefined: float = 0.0

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise InputError(f"expected low <= high, got {self.low} and {self.high}")


def bootstrap_interval(
    statistic: Callable[..., Any],
    *arrays: npt.ArrayLike,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic (Efron, 1979).

    Rows of all arrays are drawn together, so that the interval of a difference is paired.

    Args:
        statistic: Takes the arrays, returns a number; results that are not finite are left out.
        *arrays: Each with n rows; further axes stay together.
        resamples: Number of draws.
        level: Share of draws inside the interval, strictly between 0 and 1.
        seed: Seed of the draws: the same seed gives the same interval.

    Raises:
        InputError: No array, different lengths, no row, or a setting out of range.

    Example:
        >>> gain = lambda ours, theirs: ours.mean() - theirs.mean()
        >>> bootstrap_interval(gain, [1.0, 0.0, 1.0], [0.0, -1.0, 0.0])
        Interval(low=1.0, high=1.0, undefined=0.0)
    """
    if resamples < 1 or not 0.0 < level < 1.0:
        raise InputError(
            f"expected resamples >= 1 and level inside (0, 1), got {resamples} and {level}"
        )
    columns, n = _aligned(arrays)
    values = np.empty(resamples)
    for draw, rows in enumerate(_drawn_rows(n, resamples, seed)):
        values[draw] = statistic(*(column[rows] for column in columns))
    return percentile_interval(values, level=level)


def bootstrap_counts(n: int, *, resamples: int = 1000, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return how often each of n rows is drawn by `bootstrap_interval` with the same seed.

    Returns:
        float64 [resamples, n], each row with the sum n.
    """
    counts = np.empty((resamples, n))
    for draw, rows in enumerate(_drawn_rows(n, resamples, seed)):
        counts[draw] = np.bincount(rows, minlength=n)
    return counts


def _drawn_rows(n: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    draws = np.random.default_rng(seed)
    return (draws.integers(0, n, n) for _ in range(resamples))


def _aligned(arrays: tuple[npt.ArrayLike, ...]) -> tuple[list[npt.NDArray[Any]], int]:
    columns = [np.asarray(array) for array in arrays]
    if any(column.ndim == 0 for column in columns):
        raise InputError("expected arrays with rows, got a single number: close over it instead")
    sizes = {len(column) for column in columns}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(
            f"expected arrays with one number of rows, at least 1, got {sorted(sizes)}"
        )
    return columns, sizes.pop()


def percentile_interval(values: npt.NDArray[np.float64], *, level: float = 0.95) -> Interval:
    """Return the interval that holds the middle `level` of a statistic's draws [draws]."""
    finite = values[np.isfinite(values)]
    undefined = 1.0 - finite.size / values.size
    if not finite.size:
        return Interval(float("nan"), float("nan"), undefined)
    tail = (1.0 - level) / 2
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return Interval(float(low), float(high), undefined)
