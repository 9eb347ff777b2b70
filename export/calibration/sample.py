"""Calibration data as a graph answers them, and thresholds for a deferral ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import CalibrationError

Flags = npt.NDArray[np.bool_]

LEVEL = 0.99
_DRAWS = 20_000
_TAIL = (1.0 - LEVEL) / 2


@dataclass(frozen=True, eq=False)
class Sample:
    """Calibration data as the graph that ships answers them.

    Attributes:
        confidence: float32 [n], n >= 1; a NaN defers at every threshold.
        right: bool [n], True where M_S's prediction is the label.
        large_right: bool [n], True where M_L's is; None if M_L was not run.

    Raises:
        CalibrationError: There are no data.
    """

    confidence: npt.NDArray[np.float32]
    right: Flags
    large_right: Flags | None = None

    def __post_init__(self) -> None:
        _require_any(self.confidence)

    def __len__(self) -> int:
        return int(self.confidence.size)

    def take(self, rows: npt.NDArray[np.int64]) -> Sample:
        """Return the rows with these indices."""
        large = None if self.large_right is None else self.large_right[rows]
        return Sample(self.confidence[rows], self.right[rows], large)

    def thresholds(self) -> npt.NDArray[np.float32]:
        """Return every threshold that decides differently: infinity, then down, float32 [k]."""
        numbers = self.confidence[~np.isnan(self.confidence)]
        return np.append(np.float32(np.inf), np.unique(numbers)[::-1]).astype(np.float32)

    def answered(
        self, thresholds: npt.NDArray[np.float32], which: Flags | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the number of inputs (all, or some) that M_S answers at each threshold, [k]."""
        kept = self.confidence if which is None else self.confidence[which]
        numbers = np.sort(kept[~np.isnan(kept)])
        return numbers.size - np.searchsorted(numbers, thresholds, side="left")


@dataclass(frozen=True)
class Choice:
    """A threshold with its evidence.

    Attributes:
        threshold: The confidence from which M_S answers.
        evidence: Entries that the goal adds to the calibration record.
    """

    threshold: np.float32
    evidence: dict[str, Any] = field(default_factory=dict)


def threshold_for_deferral_ratio(confidence: npt.NDArray[np.float32], ratio: float) -> np.float32:
    """Return the largest float32 whose strictly-below share does not exceed `ratio`, in [0, 1].

    A NaN counts as below every threshold, because the gate defers it.

    Raises:
        CalibrationError: There are no data, or more NaNs than the ratio allows.
    """
    _require_any(confidence)
    n = confidence.size
    # The count, not the share: 0.3 * 10 is 2.9999... in binary.
    allowed = math.floor(ratio * n + 1e-9)
    numbers = np.sort(confidence[~np.isnan(confidence)])
    allowed -= n - numbers.size
    if allowed < 0:
        raise CalibrationError(
            f"expected at most {ratio:.1%} deferred, got {n - numbers.size} NaNs among {n} "
            "confidences, which are always deferred: fix the model or the data"
        )
    if allowed >= numbers.size:
        return np.float32(np.inf)
    # With this value `allowed` or fewer lie strictly below; the next float32 would pass it.
    return np.float32(numbers[allowed])


def prediction_interval(deferred: int, n: int) -> tuple[float, float]:
    """Return the interval that holds the deferral ratio of n fresh inputs with probability `LEVEL`.

    With `deferred` of n calibration inputs deferred, the true share is drawn from Beta(deferred +
    1, n - deferred + 1), and the fresh count from the binomial distribution around it.
    """
    draws = np.random.default_rng(0)
    share = draws.beta(deferred + 1, n - deferred + 1, _DRAWS)
    fresh = draws.binomial(n, share) / n
    low, high = np.quantile(fresh, [_TAIL, 1.0 - _TAIL])
    return float(low), float(high)


def require_enough(n: int, ratio: float) -> None:
    """Raise `CalibrationError` for too few inputs to show one deferred and one kept."""
    rarer = min(ratio, 1.0 - ratio)
    if rarer > 0 and n < math.ceil(1 / rarer - 1e-9):
        raise CalibrationError(
            f"expected at least {math.ceil(1 / rarer - 1e-9)} inputs to calibrate for a deferral "
            f"ratio of {ratio}, got {n}: add data, or set --threshold"
        )


def _require_any(confidence: npt.NDArray[np.float32]) -> None:
    if confidence.size == 0:
        raise CalibrationError("expected at least one confidence to calibrate on, got none")
