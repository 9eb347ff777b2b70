"""Chooses the threshold, and the band of a second look around it, for the goal of the settings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from edge_runtime import contract, metrics
from edge_runtime.contract import SecondLook
from export.calibration import goals
from export.calibration.goals import Goal
from export.calibration.sample import LEVEL, Sample, prediction_interval
from export.commands.goal import DELTA, GoalSettings
from export.data import freshness_note, require_fresh, was_chosen_on
from export.errors import CalibrationError

REUSED = "reused"
"""Key of a record with a guarantee: the same inputs also decided when training stopped."""


def goal_of(settings: GoalSettings, extra: Mapping[str, Any]) -> Goal:
    """Return the goal of settings without a threshold.

    Raises:
        CalibrationError: The goal promises a guarantee, and the data fitted weights of the model
            with the metadata `extra`.
    """
    delta = DELTA if settings.delta is None else settings.delta
    if settings.is_certified:
        require_fresh(extra, str(settings.calibrate), settings.split)
    if settings.max_risk is not None:
        return goals.MaxRisk(settings.max_risk, delta)
    if settings.max_harm is not None:
        return goals.MaxHarm(settings.max_harm, delta)
    if settings.target_accuracy is not None:
        return goals.TargetAccuracy(settings.target_accuracy)
    if settings.cloud_cost is not None and settings.error_cost is not None:
        return goals.LeastCost(settings.cloud_cost, settings.error_cost)
    assert settings.target_deferral is not None  # noqa: S101 - the settings hold one goal
    return goals.TargetDeferral(settings.target_deferral)


def calibrate(
    goal: Goal, sample: Sample, *, data: str, split: str, extra: Mapping[str, Any] | None = None
) -> tuple[float, dict[str, Any]]:
    """Return (threshold, calibration record) for a goal.

    The name and split of the data go into the record. A guarantee on inputs that stopped the
    training of the model, according to its metadata `extra`, is marked there.

    Raises:
        CalibrationError: The data cannot give a threshold for this goal.
    """
    choice = goal.choose(sample)
    n = len(sample)
    # Counted by what is answered: a NaN is deferred as well.
    deferred = n - int((sample.confidence >= choice.threshold).sum())
    record = {
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
        **choice.evidence,
    }
    if goal.is_certified and was_chosen_on(extra or {}, data, split):
        record[REUSED] = True
    return float(choice.threshold), record


def calibrate_look(
    measure: Callable[[float, float], Sample], *, view: str, goal: Goal, band: float
) -> tuple[Sample, SecondLook]:
    """Return (the sample to choose the threshold on, the second look that gives it).

    The band lies around the rank of the threshold among the first confidences. The threshold is
    then chosen on the output of the graph with that band, bit for bit as the graph will decide.

    Args:
        measure: Returns the sample that the graph gives with a band (low, high); a band whose low
            is above its high is empty.
        view: Name of the second view.
        goal: The goal of the threshold.
        band: Half the band's width in ranks.

    Raises:
        CalibrationError: The data cannot give a threshold, or the band, chosen on the same data,
            would void the goal's guarantee.
    """
    if goal.is_certified and band < contract.EVERY_INPUT:
        raise CalibrationError(
            f"expected a second look at every input with a guarantee, got a band of {band:g}, "
            f"which is chosen on the same data: use --band {contract.EVERY_INPUT:g}"
        )
    first = measure(math.inf, -math.inf)
    if isinstance(goal, goals.TargetDeferral):
        ratio = goal.target
    else:
        ratio = 1.0 - float((first.confidence >= goal.choose(first).threshold).mean())
    limits = metrics.band_limits(first.confidence, ratio, band)
    share = float(metrics.in_band(first.confidence, *limits).mean())
    return measure(*limits), SecondLook.from_limits(limits, view=view, band=band, share=share)


def threshold_summary(
    settings: GoalSettings,
    extra: Mapping[str, Any],
    threshold: float,
    record: Mapping[str, Any] | None,
    look: SecondLook | None = None,
) -> str:
    """Return one line on a threshold: deferral ratio, second look, freshness of the data.

    There is no record for a threshold set by hand.
    """
    achieved = f", defers {record['achieved']:.1%} of {record['n']}" if record else ""
    fresh = freshness_note(
        extra, settings.calibrate, settings.split, certified=settings.is_certified
    )
    return f"threshold {threshold:.6g}{achieved}{band_note(threshold, look)}{fresh}"


def band_note(threshold: float, look: SecondLook | None) -> str:
    """Return a note on a second look: its share, and whether it can change a decision."""
    if look is None:
        return ""
    low, high = look.limits
    note = f", looks twice at {look.share:.1%}"
    if low <= threshold <= high:
        return note
    # Averages are lower than first confidences for inputs on which the views disagree.
    return (
        f"{note}; the {look.view} view moves the threshold out of the band: check with "
        "`train evaluate --second-look` whether it helps"
    )
