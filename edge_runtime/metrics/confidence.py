"""Confidence functions g of a model's logits, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def max_softmax(logits: npt.ArrayLike) -> Any:
    """Return the greatest softmax probability (paper, eq. 6).

    Args:
        logits: float [..., C]; -inf marks an impossible class.

    Returns:
        float64 [...] in [1/C, 1]; NaN where a row holds NaN, +inf, or -inf alone.
    """
    z = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        shifted = z - z.max(axis=-1, keepdims=True)
        return 1.0 / np.exp(shifted).sum(axis=-1)


def neg_entropy(logits: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Any:
    """Return the negative predictive entropy; over tokens, its mean (paper, eq. 8).

    Args:
        logits: float [..., V].
        mask: bool [..., T] for logits [..., T, V]: True where a token counts. With it the result is
            the mean over the counted tokens, [...]; NaN where none counts.

    Returns:
        float64 in [-log V, 0], NaN where a counted row holds NaN, +inf, or -inf alone.
    """
    z = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        c = z - z.max(axis=-1, keepdims=True)
        e = np.exp(c)
        total = e.sum(axis=-1)
        # 0 log 0 = 0, while a NaN must stay one.
        weighted = np.where(e == 0.0, 0.0, e * c).sum(axis=-1)
        entropies = weighted / total - np.log(total)
        if mask is None:
            return entropies
        counted = np.asarray(mask, dtype=bool)
        sums = np.where(counted, entropies, 0.0).sum(axis=-1)
        return sums / counted.sum(axis=-1)


def unit_neg_entropy(confidence: npt.ArrayLike, vocabulary: int) -> Floats:
    """Map a negative entropy from [-log V, 0] to [0, 1] by 1 + g / log V (V = 1: confidence 1)."""
    g = np.asarray(confidence, dtype=np.float64)
    return np.ones_like(g) if vocabulary == 1 else 1.0 + g / np.log(vocabulary)
