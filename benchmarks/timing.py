"""Times calls against each other, so that a drifting machine moves both sides alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np

Call = Callable[[], Any]
_PAUSE_S = 0.03
"""Before a turn: ONNX Runtime's threads spin for a while after their own, and hold the cores."""


def paired_medians_us(
    calls: Mapping[str, Call], *, rounds: int = 60, calls_a_round: int = 50
) -> dict[str, float]:
    """Return each call's median time in microseconds, measured in alternating rounds.

    Args:
        calls: What to time, by name.
        rounds: How often all calls take their turn.
        calls_a_round: Single timings of one call in a turn.
    """
    samples = _alternate(calls, rounds, calls_a_round)
    return {name: float(np.median(times)) / 1e3 for name, times in samples.items()}


def medians_a_round_us(
    calls: Mapping[str, Call], *, rounds: int = 60, calls_a_round: int = 50
) -> dict[str, list[float]]:
    """Return the same a round: what two calls took side by side can be compared in pairs."""
    samples = _alternate(calls, rounds, calls_a_round)
    return {
        name: [float(np.median(turn)) / 1e3 for turn in times] for name, times in samples.items()
    }


def _alternate(
    calls: Mapping[str, Call], rounds: int, calls_a_round: int
) -> dict[str, list[list[int]]]:
    samples: dict[str, list[list[int]]] = {name: [] for name in calls}
    for call in calls.values():
        time_each(call, calls_a_round)  # warm-up
    for _ in range(rounds):
        for name, call in calls.items():
            sleep(_PAUSE_S)
            samples[name].append(time_each(call, calls_a_round))
    return samples


def time_each(call: Call, count: int) -> list[int]:
    """Return the time of each of `count` calls in nanoseconds."""
    times = []
    for _ in range(count):
        start = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - start)
    return times


def percentiles_ms(times_s: Any) -> dict[str, float]:
    """Return p50, p90 and p99 in milliseconds of the times that are not NaN; NaN for none."""
    values = np.asarray(times_s, dtype=float) * 1e3
    values = values[~np.isnan(values)]
    if not values.size:
        return dict.fromkeys(("p50_ms", "p90_ms", "p99_ms"), float("nan"))
    return {f"p{q}_ms": float(np.percentile(values, q)) for q in (50, 90, 99)}
