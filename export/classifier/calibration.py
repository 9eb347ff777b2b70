"""Chooses a classifier's threshold on data, for a new bundle and for an existing one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from export.calibration.sample import Sample
from export.calibration.threshold import calibrate, calibrate_look, goal_of
from export.commands.goal import GoalSettings
from export.data import require_labels
from export.sources.reference import Gate
from export.verification import Answers
from train.data import LabelledData
from train.models import open_checkpoint

Band = tuple[float, float]


def choose_gate(
    settings: GoalSettings,
    kind: str,
    split: LabelledData,
    answer: Callable[[Band | None], Answers],
    *,
    extra: Mapping[str, Any],
    look: tuple[str, float] | None,
    watch: Callable[[Sample], None] | None = None,
) -> tuple[Gate, dict[str, Any]]:
    """Return (the gate, the calibration record) for the goal of the settings.

    Args:
        settings: The goal.
        kind: Kind of the first confidence.
        split: The calibration data.
        answer: Function that runs the graph on these data, given the band of a second look or None.
        extra: Metadata of the model, with the records of its training and deferral head.
        look: The view of a second look and half its band's width in ranks, or None.
        watch: Function that is given the answers on which the threshold is chosen.

    Raises:
        CalibrationError: The data cannot give a threshold, or a guarantee.
        LabelError: M_L has other labels.
    """
    goal = goal_of(settings, extra)
    large_right = _large_right(settings, split)

    def sample(*band: float) -> Sample:
        prediction, confidence, _ = answer((band[0], band[1]) if band else None)
        return Sample(confidence, prediction == split.labels, large_right)

    if look is None:
        measured, second = sample(), None
    else:
        measured, second = calibrate_look(sample, view=look[0], goal=goal, band=look[1])
    if watch is not None:
        watch(measured)
    threshold, record = calibrate(
        goal, measured, data=str(settings.calibrate), split=settings.split, extra=extra
    )
    return Gate(kind, threshold, second), record


def _large_right(settings: GoalSettings, split: LabelledData) -> Any:
    """Return bool [n], True where M_L is right, or None without `--large`."""
    if settings.large is None:
        return None
    model = open_checkpoint(settings.large, kind=split.kind)
    require_labels(model.labels, settings.large, labels=split.label_names, owner=settings.calibrate)
    return np.asarray(model.predict(split.inputs).argmax(axis=-1) == split.labels)
