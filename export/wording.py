"""Says in words what a calibration record means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Record = Mapping[str, Any]


def describe_calibration(record: Record) -> list[str]:
    """Return lines that answer "what does this threshold mean".

    Raises:
        KeyError: It is a record of another toolkit.
        TypeError: The same.
        ValueError: The same.
    """
    low, high = record["interval"]
    return [
        *_GOALS[record["goal"]](record),
        f"it defers {record['achieved']:.1%} of {record['n']} inputs ({record['split']} of "
        f"{record['data']}); on as many fresh inputs of the same kind expect {low:.1%} to "
        f"{high:.1%} deferred ({record['interval_level']:.0%} interval)",
    ]


def _target_deferral(record: Record) -> list[str]:
    return [f"it was chosen to defer at most {record['target']:.1%} of the inputs"]


def _target_accuracy(record: Record) -> list[str]:
    answered, right = record["answered"], record["right"]
    return [
        f"it was chosen for at least {record['target']:.1%} right among what M_S answers: "
        f"{right} of {answered} are; this is no guarantee for fresh inputs (--max-risk gives one)"
    ]


def _max_risk(record: Record) -> list[str]:
    return [
        f"guarantee: with probability {1 - record['delta']:g} over the calibration data, at most "
        f"{record['target']:.2%} of the inputs that M_S answers are answered wrongly",
        f"it rests on {record['answered']} answered inputs with {record['wrong']} errors (p = "
        f"{record['p_value']:.2g}); {_basis(record)}",
    ]


def _max_harm(record: Record) -> list[str]:
    return [
        f"guarantee: with probability {1 - record['delta']:g} over the calibration data, the "
        f"cascade is right at most {record['target']:.2%} less often than M_L alone",
        f"it rests on {record['answered']} answered inputs: on {record['lost']} of them only M_L "
        f"is right, on {record['won']} only M_S (upper bound {record['upper_bound']:.2%}); "
        f"{_basis(record)}",
    ]


def _basis(record: Record) -> str:
    reused = (
        "the same inputs also decided when training stopped, so strictly it is for a model made "
        "without them; "
    )
    return (reused if record.get("reused") else "") + (
        f"{record['method']}, {record['ordered_by']} inputs to order the thresholds and "
        f"{record['tested_on']} to test them; void for inputs of another kind, and for another "
        "threshold"
    )


def _least_cost(record: Record) -> list[str]:
    large = "M_L's own errors counted" if record["large_known"] else "M_L taken to be always right"
    return [
        f"it was chosen for the least cost, {record['cloud_cost']:g} a call and "
        f"{record['error_cost']:g} a wrong answer, {large}: {record['cost']:.4g} an input, against "
        f"{record['cost_all_edge']:.4g} without the cloud and {record['cost_all_cloud']:.4g} "
        "without the device"
    ]


_GOALS: dict[str, Callable[[Record], list[str]]] = {
    "target_deferral": _target_deferral,
    "target_accuracy": _target_accuracy,
    "max_risk": _max_risk,
    "max_harm": _max_harm,
    "least_cost": _least_cost,
}
