"""What the metadata say of how a threshold was chosen."""

from __future__ import annotations

import hashlib
from typing import Any

from export.calibration.deferral import LEVEL, prediction_interval
from export.calibration.goals import Goal
from export.calibration.sample import Sample

REUSED = "reused"
"""Key of a record with a guarantee: the same inputs also decided when training stopped."""


def calibrate(goal: Goal, sample: Sample, *, data: str, split: str) -> tuple[float, dict[str, Any]]:
    """Return (threshold, calibration record).

    Args:
        goal: What to choose for.
        sample: The calibration data as the graph answers them.
        data: Their name, for the record.
        split: Which part of them.

    Raises:
        CalibrationError: The data cannot give a threshold for this goal.
    """
    choice = goal.choose(sample)
    n = len(sample)
    # Not below: a NaN is deferred as well.
    deferred = n - int((sample.confidence >= choice.threshold).sum())
    return float(choice.threshold), {
        "goal": goal.name,
        "target": goal.target,
        "achieved": deferred / n,
        "n": n,
        "interval": list(prediction_interval(deferred, n)),
        "interval_level": LEVEL,
        "interval_kind": "deferral ratio of as many fresh inputs, beta-binomial",
        "data": data,
        "split": split,
        "confidence_sha256": hashlib.sha256(sample.confidence.tobytes()).hexdigest(),
        **choice.found,
    }
