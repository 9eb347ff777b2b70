"""Separation of right from wrong answers by confidence: AUROC, s_o, Pearson.

The confidence densities behind s_o are Gaussian kernel sums on [0, 1], reflected at both ends. For
samples c with bandwidth h the density is the sum of K(x - c) + K(x + c) + K(x - 2 + c),
K(u) = exp(-(u / h)^2 / 2), on 4,097 points, divided by its trapezoid mass; h = std(ddof=1) n^(-1/5)
(Scott), at least 1e-3, for each group.

Adding up n kernels costs n x 4,097 exponentials: 9 s for 100,000 samples. Instead, each sample
moves to its nearest grid point, and the move d (in bandwidths, below 0.13) is corrected by the
Taylor series

    exp(-(u - d)^2 / 2) = sum over k of d^k / k! He_k(u) exp(-u^2 / 2),  He_k: Hermite polynomials,

which turns the sum into a few convolutions on the grid, exact to rounding and independent of n
(the idea of the improved fast Gauss transform: Greengard and Strain, 1991).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError
from edge_runtime.metrics.arrays import Floats, Indices, area, column, mid_ranks, right_or_wrong

_NAN = float("nan")
# float32 arithmetic and 1 + g / log V overshoot [0, 1] by rounding; a wrong scale by far more.
_OVERSHOOT = 1e-6

_LEAST_SAMPLES = 2  # of either group: a spread needs two

POINTS = 4097
"""Grid points on [0, 1], both ends included."""
BANDWIDTH_FLOOR = 1e-3
"""Least bandwidth, for groups of (nearly) equal confidences."""
_STEPS = POINTS - 1
_GRID = np.linspace(0.0, 1.0, POINTS)
_SERIES_ERROR = 1e-14
# Images lie on [-1, 2], results on [0, 1]: distances reach 2 both ways, so a period of at least
# 4 x 4,096 + 1 points keeps the circular convolution from wrapping; this one factors into 2, 3, 5.
_PERIOD = 17280


def auroc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Return the probability that a right sample has more confidence than a wrong one.

    A tie counts half.

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

    It is the integral over [0, 1] of the lower of the two densities (the paper's s_o), with the
    kernel described in `edge_runtime.metrics.separation`. Lower is better.

    Args:
        confidence: g [n] in [0, 1]; NaN counts as 0. Map a negative entropy with
            `unit_neg_entropy` first.
        correct: 1 right, 0 wrong, [n].

    Returns:
        0 (apart) to 1 (the same); NaN where fewer than two are right or fewer than two wrong: a
        single sample has no spread, so its density has no width.

    Raises:
        InputError: Shapes differ or are empty, a confidence is outside [0, 1], or `correct` holds
            anything but 0 and 1.
    """
    g = _unit(column("confidence", confidence))
    right = right_or_wrong("correct", correct, g.size)
    if min(right.sum(), (~right).sum()) < _LEAST_SAMPLES:
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
    """Return the correlation of confidence and quality (the paper's metric for graded answers).

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
    """Return values minus their mean, scaled so that squares neither overflow nor underflow."""
    scaled = values / np.abs(values).max()
    return np.asarray(scaled - scaled.mean())


def density(samples: Floats) -> Floats:
    """Return the density of `samples`, float64 [n] in [0, 1], n >= 2, on the grid [4097]."""
    width = bandwidth(samples)
    nearest = np.rint(samples * _STEPS).astype(np.intp)
    moves = (samples - nearest / _STEPS) / width
    orders = _orders(0.5 / _STEPS / width)
    moments = _reflected_moments(nearest, moves, orders)
    spectrum = (np.fft.rfft(moments) * np.fft.rfft(_kernels(width, orders))).sum(axis=0)
    # The array starts at -1, so the grid on [0, 1] starts one length in.
    heights = np.fft.irfft(spectrum, _PERIOD)[_STEPS : _STEPS + POINTS]
    # Far from every sample the transform leaves rounding errors of either sign.
    heights = np.maximum(heights, 0.0)
    return np.asarray(heights / area(_GRID, heights))


def bandwidth(samples: Floats) -> float:
    """Return Scott's bandwidth of one group, not below the floor."""
    spread = float(samples.std(ddof=1))
    return float(max(spread * float(samples.size) ** -0.2, BANDWIDTH_FLOOR))


def overlap(first: Floats, second: Floats) -> float:
    """Return the area under the lower of two densities on the grid."""
    return area(_GRID, np.minimum(first, second))


def _orders(greatest_move: float) -> int:
    """Return the number of terms of the series: |He_k(u)| exp(-u^2/2) <= 1.1 sqrt(k!) (Cramér)."""
    count, term = 1, greatest_move
    while term > _SERIES_ERROR:
        count += 1
        term *= greatest_move / np.sqrt(count)
    return count


def _reflected_moments(nearest: Indices, moves: Floats, orders: int) -> Floats:
    """Return sum d^k / k! at each grid point [orders, period], images at -c and 2 - c included."""
    moments = np.zeros((orders, _PERIOD))
    weights = np.ones_like(moves)
    for k in range(orders):
        own = np.bincount(nearest, weights, minlength=POINTS)
        # A mirrored sample moves in the other direction, so odd powers change sign.
        mirrored = own[::-1] if k % 2 == 0 else -own[::-1]
        moments[k, :POINTS] += mirrored
        moments[k, _STEPS : _STEPS + POINTS] += own
        moments[k, 2 * _STEPS : 2 * _STEPS + POINTS] += mirrored
        weights = weights * moves / (k + 1)
    return moments


def _kernels(width: float, orders: int) -> Floats:
    """Return He_k(u) exp(-u^2 / 2), k < orders, at the circular distances: [orders, period]."""
    distance = (np.arange(_PERIOD) + _PERIOD // 2) % _PERIOD - _PERIOD // 2
    u = distance / _STEPS / width
    bell = np.exp(-0.5 * u * u)
    kernels = np.empty((orders, _PERIOD))
    previous, current = np.zeros_like(bell), bell
    for k in range(orders):
        kernels[k] = current
        previous, current = current, u * current - k * previous
    return kernels
