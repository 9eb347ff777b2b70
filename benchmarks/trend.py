"""Whether a series rises."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the slope of the line of least squares, and its standard error.

    Args:
        x: [n], n >= 3, not all alike.
        y: [n].
    """
    dx, dy = x - x.mean(), y - y.mean()
    square = float(dx @ dx)
    per_x = float(dx @ dy) / square
    rest = dy - per_x * dx
    return per_x, float(np.sqrt(rest @ rest / (len(rest) - 2) / square))
