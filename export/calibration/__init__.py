"""Chooses a threshold for a goal, from the confidences of the graph that ships."""

from export.calibration.goals import (
    Goal,
    LeastCost,
    MaxHarm,
    MaxRisk,
    TargetAccuracy,
    TargetDeferral,
)
from export.calibration.sample import Choice, Sample, threshold_for_deferral_ratio
from export.calibration.threshold import REUSED, band_note, calibrate, calibrate_look

__all__ = [
    "REUSED",
    "Choice",
    "Goal",
    "LeastCost",
    "MaxHarm",
    "MaxRisk",
    "Sample",
    "TargetAccuracy",
    "TargetDeferral",
    "band_note",
    "calibrate",
    "calibrate_look",
    "threshold_for_deferral_ratio",
]
