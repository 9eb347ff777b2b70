"""Chooses the band of a second look, and says what the look does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

from edge_runtime import contract, metrics
from edge_runtime.contract import SecondLook
from export.calibration.goals import Goal, TargetDeferral
from export.calibration.sample import LEVEL, Sample, prediction_interval
from export.errors import CalibrationError

REUSED = "reused"
"""Key of a record with a guarantee: the same inputs also decided when training stopped."""

# MERGEDOC export/calibration/record.py: 'What the metadata say of how a threshold was chosen.'


def calibrate_look(
    measure: Callable[[float, float], Sample],
    *,
    view: str,
    goal: Goal,
    band: float,
) -> tuple[Sample, SecondLook]:
    """Return (the sample to choose the threshold on, the second look that makes it).

    The band lies around the rank of the threshold among the first confidences; the threshold is
    then chosen on what the graph with that band gives, to the last bit what it will decide on.

    Args:
        measure: Returns what the graph gives with a band (low, high); no confidence is in one
            whose low is above its high.
        view: The second view's name.
        goal: What the threshold is chosen for.
        band: Half the band's width in ranks.

    Raises:
        CalibrationError: The data cannot give a threshold, or the band, chosen on the same data,
            would void the goal's guarantee.
    """
    if goal.is_certified and band < contract.EVERY_INPUT:
        raise CalibrationError(
            f"expected a second look at every input beside a guarantee, got a band of {band:g}: it "
            f"is chosen on the same data; use --band {contract.EVERY_INPUT:g}"
        )
    first = measure(math.inf, -math.inf)
    limits = metrics.band_limits(first.confidence, _ratio(goal, first), band)
    share = float(metrics.in_band(first.confidence, *limits).mean())
    return measure(*limits), SecondLook.from_limits(limits, view=view, band=band, share=share)


def _ratio(goal: Goal, first: Sample) -> float:
    """Return the deferral ratio to lay the band around."""
    if isinstance(goal, TargetDeferral):
        return goal.target
    threshold = goal.choose(first).threshold
    return 1.0 - float((first.confidence >= threshold).mean())


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
