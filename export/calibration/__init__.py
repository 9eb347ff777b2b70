"""Chooses the threshold, for a goal, on the confidences of the graph that ships."""

from export.calibration.deferral import threshold_for_deferral_ratio
from export.calibration.goals import (
    Goal,
    LeastCost,
    MaxHarm,
    MaxRisk,
    TargetAccuracy,
    TargetDeferral,
)
from export.calibration.look import band_note, calibrate_look
from export.calibration.record import REUSED, calibrate
from export.calibration.sample import Choice, Sample

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
