"""Chooses threshold and band for a deferral ratio, on the confidences of the graph that ships."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import metrics
from edge_runtime.contract import SecondLook
from export.errors import CalibrationError

LEVEL = 0.95
_DRAWS = 20_000
_TAIL = (1.0 - LEVEL) / 2


def threshold_for_deferral_ratio(confidence: npt.NDArray[np.float32], ratio: float) -> np.float32:
    """Return the largest float32 whose strictly-below share does not exceed `ratio`.

    A NaN counts as below every threshold, because the gate defers it.

    Args:
        confidence: float32 [n], n >= 1.
        ratio: Wished deferral ratio in [0, 1].

    Raises:
        CalibrationError: No data, or more NaNs than the ratio allows.
    """
    n = confidence.size
    if n == 0:
        raise CalibrationError("expected at least one confidence to calibrate on, got none")
    # The count, not the share: 0.3 * 10 is 2.9999... in binary.
    allowed = math.floor(ratio * n + 1e-9)
    numbers = np.sort(confidence[~np.isnan(confidence)])
    allowed -= n - numbers.size
    if allowed < 0:
        raise CalibrationError(
            f"expected at most {ratio:.1%} deferred, but {n - numbers.size} of {n} confidences are "
            "NaN and defer always: mend the model or the data"
        )
    if allowed >= numbers.size:
        return np.float32(np.inf)
    # With this value `allowed` or fewer lie strictly below; the next float32 would pass it.
    return np.float32(numbers[allowed])


def calibration_record(
    confidence: npt.NDArray[np.float32], *, ratio: float, data: str, split: str
) -> tuple[float, dict[str, Any]]:
    """Return (threshold, what the metadata says of how it was chosen).

    The interval is for the deferral ratio on as many fresh inputs of the same kind: the share
    below the k-th of n calibration values is Beta(k + 1, n - k) distributed, and the fresh count
    Binomial around it.

    Raises:
        CalibrationError: Too few data to defer one and keep one, or too many NaNs.
    """
    _require_enough(int(confidence.size), ratio)
    threshold = threshold_for_deferral_ratio(confidence, ratio)
    kept = confidence >= threshold
    n = int(confidence.size)
    deferred = int(n - kept.sum())
    low, high = _prediction_interval(deferred, n)
    return float(threshold), {
        "goal": "target_deferral",
        "target": ratio,
        "achieved": deferred / n,
        "n": n,
        "interval": [low, high],
        "interval_level": LEVEL,
        "interval_kind": "deferral ratio of as many fresh inputs, beta-binomial",
        "data": data,
        "split": split,
        "confidence_sha256": hashlib.sha256(confidence.tobytes()).hexdigest(),
    }


def calibrate_look(
    measure: Callable[[float, float], npt.NDArray[np.float32]],
    *,
    view: str,
    ratio: float,
    band: float,
) -> tuple[npt.NDArray[np.float32], SecondLook]:
    """Return (confidences [n] to choose the threshold on, the second look that makes them).

    The band lies around the rank of the threshold among the first confidences; the threshold is
    then chosen on what the graph with that band gives, to the last bit what it will decide on.

    Args:
        measure: Returns the confidences float32 [n] that the graph gives with a band (low, high);
            none is in one whose low is above its high.
        view: The second view's name.
        ratio: Wished deferral ratio.
        band: Half the band's width in ranks.

    Raises:
        CalibrationError: There are no data.
    """
    first = measure(math.inf, -math.inf)
    if first.size == 0:
        raise CalibrationError("expected at least one confidence to calibrate on, got none")
    limits = metrics.band_limits(first, ratio, band)
    share = float(metrics.in_band(first, *limits).mean())
    return measure(*limits), SecondLook.from_limits(limits, view=view, band=band, share=share)


def band_note(threshold: float, look: SecondLook | None) -> str:
    """Return what to say of a second look: its share, and whether it decides anything."""
    if look is None:
        return ""
    low, high = look.limits
    note = f", looks twice at {look.share:.1%}"
    if low <= threshold <= high:
        return note
    # Averages lie lower than first confidences where the views disagree.
    return (
        f"{note}; the {look.view} view moves the threshold out of the band: see whether it helps "
        "with `train evaluate --second-look`"
    )


def _prediction_interval(deferred: int, n: int) -> tuple[float, float]:
    draws = np.random.default_rng(0)
    share = draws.beta(deferred + 1, n - deferred + 1, _DRAWS)
    fresh = draws.binomial(n, share) / n
    low, high = np.quantile(fresh, [_TAIL, 1.0 - _TAIL])
    return float(low), float(high)


def _require_enough(n: int, ratio: float) -> None:
    rarer = min(ratio, 1.0 - ratio)
    if rarer > 0 and n < math.ceil(1 / rarer - 1e-9):
        raise CalibrationError(
            f"expected at least {math.ceil(1 / rarer - 1e-9)} inputs to calibrate for a deferral "
            f"ratio of {ratio}, got {n}: add data, or set --threshold"
        )
