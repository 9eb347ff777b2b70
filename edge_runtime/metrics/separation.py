"""How well confidence tells right from wrong: AUROC, s_o, Pearson."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.metrics.arrays import (
    Floats,
    binary,
    column,
    group_ends,
    least_confident_first,
)

_GRID = np.linspace(0.0, 1.0, 4097)
_BANDWIDTH_FLOOR = 1e-3
_CHUNK = 512  # samples per block of the kernel sum: 16 MiB
_NAN = float("nan")


def auroc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Return the probability that a right sample is surer than a wrong one; a tie counts half.

    Args:
        confidence: g [n]; NaN is the least confident, all NaNs tied.
        correct: 1 right, 0 wrong, [n].

    Returns:
        A value in [0, 1]; NaN where all are right or all wrong.
    """
    g = column("confidence", confidence)
    right = binary("correct", correct, g.size)
    positives = int(right.sum())
    negatives = g.size - positives
    if positives == 0 or negatives == 0:
        return _NAN
    ranks = _mid_ranks(g)
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _mid_ranks(g: Floats) -> Floats:
    order, ordered = least_confident_first(g)
    ends = group_ends(ordered)
    starts = np.concatenate(([0], ends[:-1]))
    ranks = np.empty(g.size)
    ranks[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return ranks


def distributional_overlap(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Return s_o, the overlap of the confidence densities of right and wrong samples (paper, eq. 12).

    Gaussian kernels with Scott's bandwidth per group (at least 1e-3), reflected at 0 and 1,
    normalised on [0, 1], on a grid of 4,097 points.

    Args:
        confidence: g [n] in [0, 1]; NaN counts as 0.
        correct: 1 right, 0 wrong, [n].

    Returns:
        0 (apart) to 1 (the same); NaN where a group is empty.
    """
    g = np.nan_to_num(column("confidence", confidence), nan=0.0)
    right = binary("correct", correct, g.size)
    if right.all() or not right.any():
        return _NAN
    lowest = np.minimum(_density(g[right]), _density(g[~right]))
    return float(np.trapezoid(lowest, _GRID))


def _density(values: Floats) -> Floats:
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    bandwidth = max(float(spread) * values.size**-0.2, _BANDWIDTH_FLOOR)
    density = np.zeros_like(_GRID)
    distinct, counts = np.unique(values, return_counts=True)
    for start in range(0, distinct.size, _CHUNK):
        block = slice(start, start + _CHUNK)
        density += _kernels(distinct[block], counts[block], bandwidth)
    return density / float(np.trapezoid(density, _GRID))


def _kernels(centres: Floats, counts: npt.NDArray[np.int64], bandwidth: float) -> Floats:
    total = np.zeros_like(_GRID)
    for mirrored in (centres, -centres, 2.0 - centres):
        distance = (_GRID[None, :] - mirrored[:, None]) / bandwidth
        total += counts @ np.exp(-0.5 * distance * distance)
    return total


def pearson(confidence: npt.ArrayLike, quality: npt.ArrayLike) -> float:
    """Return the correlation of confidence and quality in [-1, 1]; pairs with NaN are dropped.

    Returns:
        NaN where fewer than two pairs are left or a side is constant.
    """
    g = column("confidence", confidence)
    q = column("quality", quality, g.size)
    kept = ~(np.isnan(g) | np.isnan(q))
    g, q = g[kept], q[kept]
    if g.size < 2 or np.ptp(g) == 0 or np.ptp(q) == 0:  # noqa: PLR2004 - a line needs two points
        return _NAN
    g, q = g - g.mean(), q - q.mean()
    return float((g @ q) / np.sqrt((g @ g) * (q @ q)))
