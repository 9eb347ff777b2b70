"""The bootstrap: intervals of any statistic, and the metrics of many draws at once.

A draw weights each input by the number of times it holds it, so that a cascade is sorted by
confidence once instead of once per draw. Area and AUROC are sums over mid-ranks (Mann and Whitney,
1947), which need one cumulated column instead of a curve per draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError
from edge_runtime.metrics.arrays import (
    Floats,
    Indices,
    cascade,
    least_confident_first,
    right_or_wrong,
    share,
)
from edge_runtime.metrics.deferral import CLOSE

_BLOCK = 65_536  # numbers processed at once: the few arrays of a block stay in the cache


@dataclass(frozen=True)
class Interval:
    """A percentile interval; both ends are NaN where the statistic was never defined.

    Attributes:
        low: Lower end.
        high: Upper end.
        undefined: Share of the resamples whose statistic was not finite; the interval leaves them
            out.
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
        statistic: Function of the arrays that returns a number; non-finite results are left out.
        *arrays: Arrays with n rows each; further axes stay together.
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
    """Return the count of each row in each draw of `bootstrap_interval`, float64 [resamples, n]."""
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
    """Return the interval of the middle `level` of a statistic's draws [draws]."""
    finite = values[np.isfinite(values)]
    undefined = 1.0 - finite.size / values.size
    if not finite.size:
        return Interval(float("nan"), float("nan"), undefined)
    tail = (1.0 - level) / 2
    low, high = np.quantile(finite, [tail, 1.0 - tail])
    return Interval(float(low), float(high), undefined)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The figures of a cascade for each draw; NaN where the metric itself is undefined.

    Attributes:
        p_s: Mean quality of M_S, [draws].
        p_l: Mean quality of M_L, [draws].
        area: `joint_accuracy_area`, [draws].
        auroc: `auroc`, [draws].
        joint: `joint_accuracy_at` each ratio, [draws, ratios].
    """

    p_s: Floats
    p_l: Floats
    area: Floats
    auroc: Floats
    joint: Floats

    @property
    def over_random(self) -> Floats:
        """Area between this order and random deferral (paper, eq. 10), [draws]."""
        return self.area - (self.p_s + self.p_l) / 2

    @property
    def s_d(self) -> Floats:
        """`deferral_performance(...).s_d`, [draws]."""
        defined = (self.p_s > 0) & (self.p_l - self.p_s > CLOSE)
        return _quotient(self.over_random, self.p_s * (self.p_l - self.p_s) / 2, where=defined)

    def s_d_star(self, best: Drawn) -> Floats:
        """`deferral_performance(...).s_d_star`, [draws]; `best` has the order q_S - q_L."""
        return _quotient(self.over_random, best.over_random, where=best.over_random > CLOSE)


def drawn_figures(
    confidence: npt.ArrayLike,
    small_quality: npt.ArrayLike,
    large_quality: npt.ArrayLike,
    counts: Floats,
    ratios: Sequence[float] = (),
) -> Drawn:
    """Return the metrics of every draw, as if its inputs were repeated by their counts.

    Args:
        confidence: g [n]; NaN is the least confident, all NaNs tied.
        small_quality: 1 where M_S is right, 0 where it is wrong, [n].
        large_quality: q_L [n] in [0, 1], or one number for all.
        counts: Count of each input in each draw, float64 [draws, n] (`bootstrap_counts`).
        ratios: Deferral ratios in [0, 1].

    Raises:
        InputError: Shapes differ or are empty, or a quality or a ratio is out of range.
    """
    g, small, large = cascade(confidence, small_quality, large_quality)
    right_or_wrong("small_quality", small, g.size)
    for ratio in ratios:
        share("ratio", ratio)
    if counts.ndim != 2 or counts.shape[1] != g.size:  # noqa: PLR2004
        raise InputError(f"expected counts [draws, {g.size}], got {list(counts.shape)}")
    order, ends = least_confident_first(g)
    flags = np.stack([small, large], axis=1)[order]
    blocks = [_block(part, flags, ends, ratios) for part in _parts(counts, order)]
    return Drawn(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


def _quotient(above: Floats, below: Floats, *, where: npt.NDArray[np.bool_]) -> Floats:
    """Return the quotients where they are defined, NaN elsewhere."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=where)


def _parts(counts: Floats, order: Indices) -> Iterator[Floats]:
    """Yield a few draws at a time, their inputs sorted by `order`."""
    rows = max(1, _BLOCK // order.size)
    for start in range(0, len(counts), rows):
        yield counts[start : start + rows].take(order, axis=1)


def _block(
    counts: Floats, flags: Floats, ends: Indices, ratios: Sequence[float]
) -> tuple[Floats, ...]:
    """Return p_s, p_l, area, AUROC and joint of sorted draws [rows, n]; flags: [n, 2]."""
    deferred = _cumulated(counts, ends)
    gained = _cumulated(counts * (flags[:, 1] - flags[:, 0]), ends)
    total = deferred[:, -1]
    rights, larges = (counts @ flags).T
    right_ranks, large_ranks = ((counts * _mid_ranks(deferred, ends)) @ flags).T
    # Integration by parts: the integral of the gain over the ratio is the total gain minus the
    # integral of the ratio over the gain.
    area = gained[:, -1] - (large_ranks - right_ranks) / total
    wrongs = total - rights
    auroc = _quotient(
        right_ranks - rights * rights / 2, rights * wrongs, where=(rights > 0) & (wrongs > 0)
    )
    joint = rights[:, None] + _gains_at(ratios, deferred, gained)
    return (
        rights / total,
        larges / total,
        (rights + area) / total,
        auroc,
        joint / total[:, None],
    )


def _cumulated(values: Floats, ends: Indices) -> Floats:
    """Return the sums up to the end of each tied group, [rows, groups]."""
    sums = np.cumsum(values, axis=1)
    return sums if ends.size == ends[-1] else sums.take(ends - 1, axis=1)


def _mid_ranks(deferred: Floats, ends: Indices) -> Floats:
    """Return the ranks from 0 to n of sorted inputs, tied ones at their middle, [rows, n]."""
    ranks = deferred.copy()
    ranks[:, 1:] += deferred[:, :-1]
    ranks /= 2
    sizes = np.diff(ends, prepend=0)
    return ranks if sizes.size == ends[-1] else np.repeat(ranks, sizes, axis=1)


def _gains_at(ratios: Sequence[float], deferred: Floats, gained: Floats) -> Floats:
    """Return the gain from deferring a share of each draw, linear in a group, [rows, ratios]."""
    rows, groups = deferred.shape
    wanted = deferred[:, -1:] * np.asarray(ratios, dtype=float)
    # Concatenated, the draws are one sorted array, which a single call can search.
    before = np.cumsum(deferred[:, -1:], axis=0) - deferred[:, -1:]
    places = (deferred + before).ravel().searchsorted((wanted + before).ravel())
    last = places.reshape(wanted.shape) - np.arange(rows)[:, None] * groups
    (x_0, x_1), (y_0, y_1) = (_sides(values, last) for values in (deferred, gained))
    # An empty share gains nothing, nor do inputs that the draw does not hold.
    part = np.divide(wanted - x_0, x_1 - x_0, out=np.zeros_like(wanted), where=x_1 > x_0)
    return np.asarray(y_0 + part * (y_1 - y_0))


def _sides(values: Floats, last: Indices) -> tuple[Floats, Floats]:
    """Return each row's values before and at the end of a group; before the first, 0."""
    before = np.take_along_axis(values, np.maximum(last - 1, 0), axis=1)
    return np.where(last > 0, before, 0.0), np.take_along_axis(values, last, axis=1)
