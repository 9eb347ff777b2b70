"""Chooses the best setting of a sweep on validation, and puts the comparison into sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.comparison.figures import ACCURACY, AREA
from train.sweeps.methods import AVERAGE, CONTROL, UNTUNED

LARGEST_DROP = 0.01
_SHOWN = (ACCURACY, "s_d")


def recommend(
    validation: Mapping[str, Any],
    *,
    select: str,
    largest_drop: float = LARGEST_DROP,
    most_passes: float = 2.0,
    control: str = CONTROL,
    bases: Sequence[str] = (CONTROL, UNTUNED),
) -> str:
    """Return the name of the candidate with the best figure on validation.

    Args:
        validation: The result of `compare` for validation.
        select: The figure to choose by.
        largest_drop: Largest loss of accuracy against the best of `bases`.
        most_passes: Largest number of forward passes per input.
        control: The candidate that is always admitted.
        bases: The candidates whose accuracy is to be kept.

    Returns:
        The control if no other candidate is admitted; never the average of two controls, because a
        bundle holds one model.
    """
    base = max(validation[n]["figures"][ACCURACY]["value"] for n in bases)
    admitted = {
        name: row["figures"][select]["value"]
        for name, row in validation.items()
        if (
            row["figures"][ACCURACY]["value"] >= base - largest_drop
            and row["passes"] <= most_passes
            and name != AVERAGE
        )
        # The control is every other candidate's yardstick: it wins a tie.
        or name == control
    }
    known = {name: value for name, value in admitted.items() if not math.isnan(value)}
    return max(known, key=lambda name: (known[name], name == control), default=control)


def sentences(
    compared: Mapping[str, Any], chosen: str, *, select: str, large_accuracy: float
) -> list[str]:
    """Return sentences on what was chosen on validation and what it brings on the test set.

    Args:
        compared: The result of `compare` for validation and test.
        chosen: The candidate.
        select: The figure it was chosen by.
        large_accuracy: acc(M_L) on test.
    """
    test = compared["test"]
    lines = [f"Chosen on validation by {select}: {chosen}."]
    small = test[CONTROL]["figures"][ACCURACY]["value"]
    if large_accuracy <= small:
        lines.append(
            f"M_L is right on {large_accuracy:.1%} of the test set, the control on {small:.1%}: "
            "M_L is not better overall, so s_d is not defined. Use a better M_L."
        )
    if chosen != CONTROL:
        row = test[chosen]
        shown = dict.fromkeys((select, AREA, *_SHOWN))
        lines += [describe_difference(figure, row["minus_control"][figure]) for figure in shown]
        if row["passes"] > 1:
            lines.append(f"It costs {row['passes']:.2f} forward passes of M_S per input.")
    if AVERAGE in test:
        figure = test[AVERAGE]["minus_control"][select]
        lines.append(
            f"{AVERAGE} combines two controls of neighbouring seeds. It is only a rival and never "
            f"chosen, because a bundle holds one model. {describe_difference(select, figure)}"
        )
    best = max(test, key=lambda name: _value(test[name]["figures"]["s_d"]))
    behind = test[best]["minus_control"][select]
    defined = not math.isnan(test[CONTROL]["figures"]["s_d"]["value"])
    if defined and behind["high"] < 0:
        lines.append(
            f"The best s_d belongs to {best}, whose {select} is lower than the control's "
            f"({behind['value'] * 100:+.2f} points): s_d alone would have chosen wrongly."
        )
    return lines


def _value(figure: Mapping[str, float]) -> float:
    value = figure["value"]
    return -math.inf if math.isnan(value) else value


def describe_difference(name: str, figure: Mapping[str, float]) -> str:
    """Return a sentence on the difference of a figure from the control's on the test set."""
    if math.isnan(figure["value"]):
        return f"On the test set its {name} or the control's is not defined."
    if figure["low"] > 0:
        verdict = "higher than the control's"
    elif figure["high"] < 0:
        verdict = "lower than the control's"
    else:
        verdict = "not distinguishable from the control's"
    return (
        f"On the test set its {name} is {verdict} ({figure['value'] * 100:+.2f} points, 95 % "
        f"interval {figure['low'] * 100:+.2f} to {figure['high'] * 100:+.2f})."
    )
