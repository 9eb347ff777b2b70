"""Comparisons of a quantized bundle with its original, shared by both wings."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from export.errors import VerificationError

MAX_FLIPPED = 0.005
"""Share of decisions that may differ between a float bundle and its original."""
MAX_ROUNDING = 0.01
"""Largest difference of two confidences that may explain a decision at the threshold."""
Answers: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""Prediction, confidence and defer, each [n]."""


def least_sure(confidence: npt.NDArray[Any], count: int) -> npt.NDArray[np.bool_]:
    """Return bool [n], True for the `count` inputs with the least confidence; NaN is the least.

    A quantized bundle has its threshold from its own confidences, so it is compared with the
    original at the same deferral ratio: this is what the original would defer.
    """
    order = np.argsort(np.where(np.isnan(confidence), -np.inf, confidence), kind="stable")
    deferred = np.zeros(len(confidence), np.bool_)
    deferred[order[:count]] = True
    return deferred


def at_threshold(
    confidence: npt.NDArray[Any], other: npt.NDArray[Any], threshold: float
) -> npt.NDArray[np.bool_]:
    """Return bool [n], True where two paths may decide otherwise because of rounding alone.

    A threshold that defers a share of a sample is the confidence of one of its inputs, so that the
    other path's value lies a hair beside it. How far rounding reaches is what the two paths are
    seen to differ by, and at most `MAX_ROUNDING`.

    Args:
        confidence: Confidences of one path, [n].
        other: Those of the other path for the same inputs, [n].
        threshold: The threshold of both.
    """
    differences = np.abs(confidence.astype(np.float64) - other)
    reach = min(float(np.nanmax(differences, initial=0.0)), MAX_ROUNDING)
    limits = (np.abs(values - np.float32(threshold)) <= reach for values in (confidence, other))
    return np.logical_and(*limits)


def verify_quantized(
    small: Answers, exact: Answers, labels: Any, *, max_flips: float
) -> dict[str, Any]:
    """Compare a quantized graph's answers with the float one's, each at its own threshold.

    Raises:
        VerificationError: More than the share `max_flips` of the decisions differ.
    """
    flips = float((small[2] != exact[2]).mean())
    if flips > max_flips:
        raise VerificationError(
            f"expected at most {max_flips:.2%} of the decisions to flip by quantization, got "
            f"{flips:.2%} of {len(labels)}: raise --max-flips, or quantize less"
        )
    shift = np.abs(small[1] - exact[1])
    return {
        "inputs": len(labels),
        "predictions_differing": float((small[0] != exact[0]).mean()),
        "decisions_differing": flips,
        "confidence_difference_mean": float(shift.mean()),
        "confidence_difference_max": float(shift.max()),
        "accuracy": float((small[0] == labels).mean()),
        "accuracy_float": float((exact[0] == labels).mean()),
    }


def quantization_summary(record: dict[str, Any]) -> str:
    """Return one line on the figures of `verify_quantized`."""
    return (
        f"{record['kind']}: {record['bytes'] / 1e6:.2f} MB instead of "
        f"{record['bytes_float'] / 1e6:.2f} MB, accuracy {record['accuracy']:.4f} instead of "
        f"{record['accuracy_float']:.4f}, {record['predictions_differing']:.2%} of the predictions "
        f"and {record['decisions_differing']:.2%} of the decisions differ on {record['inputs']} "
        f"inputs, confidence by {record['confidence_difference_mean']:.1e} on average"
    )
