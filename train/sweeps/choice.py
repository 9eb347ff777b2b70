"""Chooses the setting to take on validation, by what the user will get."""

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
    """Return the candidate with the best figure on validation.

    Args:
        validation: What `compare` returned for validation.
        select: The figure to choose by.
        largest_drop: How much accuracy a candidate may lose to the best of `bases`.
        most_passes: Forward passes an input that the user is ready to pay.
        control: The candidate that is always admitted.
        bases: The candidates whose accuracy is to be kept.

    Returns:
        Its name; the control where no other candidate is admitted. Never the average of two
        controls: a bundle holds one model.
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
        # The control is every other candidate's yardstick: it loses a draw with none.
        or name == control
    }
    known = {name: value for name, value in admitted.items() if not math.isnan(value)}
    return max(known, key=lambda name: (known[name], name == control), default=control)


def sentences(
    compared: Mapping[str, Any], chosen: str, *, select: str, large_accuracy: float
) -> list[str]:
    """Say in words what was chosen on validation, and what it brings on the test set.

    Args:
        compared: What `compare` returned for validation and test.
        chosen: The candidate.
        select: The figure it was chosen by.
        large_accuracy: acc(M_L) on test.
    """
    lines = [f"Chosen on validation by {select}: {chosen}."]
    small = compared["test"][CONTROL]["figures"][ACCURACY]["value"]
    if large_accuracy <= small:
        lines.append(
            f"M_L is right on {large_accuracy:.1%} of the test set, the control on {small:.1%}: "
            "it is no better as a whole, and s_d is not defined. Take a better M_L."
        )
    if chosen != CONTROL:
        row = compared["test"][chosen]
        shown = dict.fromkeys((select, AREA, *_SHOWN))
        lines += [describe_difference(figure, row["minus_control"][figure]) for figure in shown]
        if row["passes"] > 1:
            lines.append(f"It costs {row['passes']:.2f} forward passes of M_S an input.")
    if AVERAGE in compared["test"]:
        figure = compared["test"][AVERAGE]["minus_control"][select]
        lines.append(
            f"{AVERAGE}, two controls of neighbouring seeds, is a rival alone and never chosen, as "
            f"a bundle holds one model. {describe_difference(select, figure)}"
        )
    best = max(compared["test"], key=lambda name: _value(compared["test"][name]["figures"]["s_d"]))
    behind = compared["test"][best]["minus_control"][select]
    defined = not math.isnan(compared["test"][CONTROL]["figures"]["s_d"]["value"])
    if defined and behind["high"] < 0:
        lines.append(
            f"The best s_d is that of {best}, with less {select} than the control "
            f"({behind['value'] * 100:+.2f} points): s_d alone would have chosen wrongly."
        )
    return lines


def _value(figure: Mapping[str, float]) -> float:
    value = figure["value"]
    return -math.inf if math.isnan(value) else value


def describe_difference(name: str, figure: Mapping[str, float]) -> str:
    """Say how a figure on the test set differs from the control's.

    Args:
        name: Of the figure.
        figure: Its difference, of `compare`.
    """
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
