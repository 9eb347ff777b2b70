"""Times calls in alternating rounds, so that a drifting machine affects all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np

Call = Callable[[], Any]
# Pause before a turn: ONNX Runtime's threads spin for a while after their own, and hold the cores.
_PAUSE_S = 0.03


def paired_medians_us(
    calls: Mapping[str, Call], *, rounds: int = 60, calls_a_round: int = 50
) -> dict[str, float]:
    """Return each call's median time in microseconds, measured in alternating rounds.

    Args:
        calls: The calls by name.
        rounds: Number of rounds, in each of which every call takes a turn.
        calls_a_round: Timings of one call in a turn.
    """
    samples = _alternate(calls, rounds, calls_a_round)
    return {name: float(np.median(times)) / 1e3 for name, times in samples.items()}


def medians_a_round_us(
    calls: Mapping[str, Call], *, rounds: int = 60, calls_a_round: int = 50
) -> dict[str, list[float]]:
    """Return each call's median per round in microseconds, so that calls compare in pairs.

    See `paired_medians_us` for the arguments.
    """
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
    """Return p50, p90 and p99 in milliseconds of the times that are not NaN; NaN without any."""
    values = np.asarray(times_s, dtype=float) * 1e3
    values = values[~np.isnan(values)]
    if not values.size:
        return dict.fromkeys(("p50_ms", "p90_ms", "p99_ms"), float("nan"))
    return {f"p{q}_ms": float(np.percentile(values, q)) for q in (50, 90, 99)}
