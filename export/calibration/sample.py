"""What a threshold is chosen on, and what a choice is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import CalibrationError

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """Calibration data as the graph that ships answers them.

    Attributes:
        confidence: float32 [n], n >= 1; a NaN defers at every threshold.
        right: bool [n], M_S's prediction is the label.
        large_right: bool [n], M_L's is; None where M_L was not asked.

    Raises:
        CalibrationError: There are no data.
    """

    confidence: npt.NDArray[np.float32]
    right: Flags
    large_right: Flags | None = None

    def __post_init__(self) -> None:
        if self.confidence.size == 0:
            raise CalibrationError("expected at least one confidence to calibrate on, got none")

    def __len__(self) -> int:
        return int(self.confidence.size)

    def take(self, rows: npt.NDArray[np.int64]) -> Sample:
        """Return these rows."""
        large = None if self.large_right is None else self.large_right[rows]
        return Sample(self.confidence[rows], self.right[rows], large)

    def thresholds(self) -> npt.NDArray[np.float32]:
        """Return every threshold that decides differently: infinity, then down, float32 [k]."""
        numbers = self.confidence[~np.isnan(self.confidence)]
        return np.append(np.float32(np.inf), np.unique(numbers)[::-1]).astype(np.float32)

    def answered(
        self, thresholds: npt.NDArray[np.float32], which: Flags | None = None
    ) -> npt.NDArray[np.int64]:
        """Return how many of the inputs (or of some) M_S answers at each threshold, int64 [k]."""
        kept = self.confidence if which is None else self.confidence[which]
        numbers = np.sort(kept[~np.isnan(kept)])
        return numbers.size - np.searchsorted(numbers, thresholds, side="left")


@dataclass(frozen=True)
class Choice:
    """A threshold and what is known of it.

    Attributes:
        threshold: The confidence from which M_S answers.
        found: What the goal adds to the calibration record.
    """

    threshold: np.float32
    found: dict[str, Any] = field(default_factory=dict)
