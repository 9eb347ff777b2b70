"""The confidence density on [0, 1] behind s_o: a Gaussian kernel sum, reflected at both ends.

For samples c with bandwidth h the density is the sum of K(x - c) + K(x + c) + K(x - 2 + c),
K(u) = exp(-(u / h)^2 / 2), on 4,097 points, divided by its trapezoid mass; h = std(ddof=1) n^(-1/5)
(Scott), at least 1e-3, for each group.

Adding up n kernels costs n x 4,097 exponentials: 9 s for 100,000 samples. Here each sample moves to
its nearest grid point, and the move d (in bandwidths, below 0.13) is made good by the Taylor series

    exp(-(u - d)^2 / 2) = sum over k of d^k / k! He_k(u) exp(-u^2 / 2),  He_k: Hermite polynomials,

which turns the sum into a handful of convolutions on the grid, exact to rounding and independent
of n (the improved fast Gauss transform's idea: Greengard and Strain, 1991).
"""

from __future__ import annotations

import numpy as np

from edge_runtime.metrics.arrays import Floats, Indices, area

POINTS = 4097
"""Grid points on [0, 1], both ends included."""
BANDWIDTH_FLOOR = 1e-3
"""Least bandwidth, for groups whose confidences are (nearly) all equal."""

_STEPS = POINTS - 1
_GRID = np.linspace(0.0, 1.0, POINTS)
_SERIES_ERROR = 1e-14
# Images lie on [-1, 2], results on [0, 1]: distances reach 2 both ways, so a period of at least
# 4 x 4,096 + 1 points keeps the circular convolution from wrapping; this one factors into 2, 3, 5.
_PERIOD = 17280


def density(samples: Floats) -> Floats:
    """Return the density of `samples`, float64 [n] in [0, 1], n >= 1, on the grid [4097]."""
    width = bandwidth(samples)
    nearest = np.rint(samples * _STEPS).astype(np.intp)
    moves = (samples - nearest / _STEPS) / width
    orders = _orders(0.5 / _STEPS / width)
    moments = _reflected_moments(nearest, moves, orders)
    spectrum = (np.fft.rfft(moments) * np.fft.rfft(_kernels(width, orders))).sum(axis=0)
    # The grid starts one length in: the array starts at -1.
    heights = np.fft.irfft(spectrum, _PERIOD)[_STEPS : _STEPS + POINTS]
    # Far from every sample the transform leaves rounding of either sign.
    heights = np.maximum(heights, 0.0)
    return np.asarray(heights / area(_GRID, heights))


def bandwidth(samples: Floats) -> float:
    """Return Scott's bandwidth of one group, not below the floor."""
    spread = float(samples.std(ddof=1)) if samples.size > 1 else 0.0
    return float(max(spread * float(samples.size) ** -0.2, BANDWIDTH_FLOOR))


def overlap(first: Floats, second: Floats) -> float:
    """Return the area under the lower of two densities on the grid."""
    return area(_GRID, np.minimum(first, second))


def _orders(greatest_move: float) -> int:
    """Return how many terms the series needs: |He_k(u)| exp(-u^2 / 2) <= 1.1 sqrt(k!) (Cramér)."""
    count, term = 1, greatest_move
    while term > _SERIES_ERROR:
        count += 1
        term *= greatest_move / np.sqrt(count)
    return count


def _reflected_moments(nearest: Indices, moves: Floats, orders: int) -> Floats:
    """Return sum d^k / k! at every grid point [orders, period]; images at -c and 2 - c count."""
    moments = np.zeros((orders, _PERIOD))
    weights = np.ones_like(moves)
    for k in range(orders):
        own = np.bincount(nearest, weights, minlength=POINTS)
        # A mirrored sample moves the other way, so odd powers change sign.
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
