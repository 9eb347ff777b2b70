"""The metrics of many bootstrap draws at once: a draw weights each input by how often it holds it.

So a cascade is sorted by confidence once, and not once a draw. Area and AUROC are sums over mid
ranks (Mann and Whitney, 1947), which need one cumulated column instead of a curve each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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

_BLOCK = 65_536  # numbers worked on at once: the handful of arrays of a block stay in the cache


@dataclass(frozen=True, eq=False)
class Drawn:
    """The figures of a cascade, one a draw; NaN where undefined, as the metrics themselves have it.

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
        return divided(self.over_random, self.p_s * (self.p_l - self.p_s) / 2, where=defined)

    def s_d_star(self, best: Drawn) -> Floats:
        """`deferral_performance(...).s_d_star`, [draws]; `best`: of the order q_S - q_L."""
        return divided(self.over_random, best.over_random, where=best.over_random > CLOSE)


def drawn_figures(
    confidence: npt.ArrayLike,
    small_quality: npt.ArrayLike,
    large_quality: npt.ArrayLike,
    counts: Floats,
    ratios: Sequence[float] = (),
) -> Drawn:
    """Return the figures of every draw: those of the metrics on the inputs repeated by its counts.

    Args:
        confidence: g [n]; NaN is the least confident, all NaNs tied.
        small_quality: 1 where M_S is right, 0 where it is wrong, [n].
        large_quality: q_L [n] in [0, 1], or one number for all.
        counts: How often a draw holds an input, float64 [draws, n] (`bootstrap_counts`).
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


def divided(above: Floats, below: Floats, *, where: npt.NDArray[np.bool_]) -> Floats:
    """Return the quotients, NaN elsewhere."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=where)


def _parts(counts: Floats, order: Indices) -> Iterator[Floats]:
    """Yield a few draws at a time, the least confident input first."""
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
    # By parts: the integral of the gain over the ratio is the whole gain less that of the ratio
    # over the gain.
    area = gained[:, -1] - (large_ranks - right_ranks) / total
    wrongs = total - rights
    auroc = divided(
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
    """Return the ranks from 0 to n of sorted inputs, tied ones at their middle: [rows, n]."""
    ranks = deferred.copy()
    ranks[:, 1:] += deferred[:, :-1]
    ranks /= 2
    sizes = np.diff(ends, prepend=0)
    return ranks if sizes.size == ends[-1] else np.repeat(ranks, sizes, axis=1)


def _gains_at(ratios: Sequence[float], deferred: Floats, gained: Floats) -> Floats:
    """Return what deferring a share of each draw gains, straight inside a group: [rows, ratios]."""
    rows, groups = deferred.shape
    wanted = deferred[:, -1:] * np.asarray(ratios, dtype=float)
    # The draws one after another are one sorted array, which one call can search.
    before = np.cumsum(deferred[:, -1:], axis=0) - deferred[:, -1:]
    found = (deferred + before).ravel().searchsorted((wanted + before).ravel())
    last = found.reshape(wanted.shape) - np.arange(rows)[:, None] * groups
    (x_0, x_1), (y_0, y_1) = (_sides(values, last) for values in (deferred, gained))
    # Nothing is gained from an empty share, nor over inputs that the draw does not hold.
    part = np.divide(wanted - x_0, x_1 - x_0, out=np.zeros_like(wanted), where=x_1 > x_0)
    return np.asarray(y_0 + part * (y_1 - y_0))


def _sides(values: Floats, last: Indices) -> tuple[Floats, Floats]:
    """Return the values before and at the end of a group of each row; before the first is 0."""
    before = np.take_along_axis(values, np.maximum(last - 1, 0), axis=1)
    return np.where(last > 0, before, 0.0), np.take_along_axis(values, last, axis=1)
