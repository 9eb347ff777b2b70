"""Bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A percentile interval; NaN on both sides where the statistic was never defined."""

    low: float
    high: float


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: npt.ArrayLike,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic (Efron, 1979).

    Rows of all arrays are drawn together, so that the interval of a difference is paired.

    Args:
        statistic: Takes the arrays, returns a number; NaN results are left out.
        *arrays: Each with n rows.
        resamples: Number of draws.
        level: Share of draws inside the interval.
        seed: Seed of the draws.

    Raises:
        InputError: No array, different lengths, or no row.
    """
    columns = [np.asarray(array) for array in arrays]
    sizes = {len(c) for c in columns}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"expected arrays with one number of rows, at least 1, got {sizes}")
    draws = np.random.default_rng(seed)
    n = sizes.pop()
    values: list[Any] = []
    for _ in range(resamples):
        rows = draws.integers(0, n, n)
        values.append(statistic(*(c[rows] for c in columns)))
    finite = np.array(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Interval(float("nan"), float("nan"))
    tail = (1.0 - level) / 2
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return Interval(float(low), float(high))
