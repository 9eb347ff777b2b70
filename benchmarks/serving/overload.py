"""Measures the answers of an overloaded server of a slow model.

Calls come at the random times of an open loop, whether or not earlier ones still wait: callers that
wait for an answer before the next call would slow down with the server and hide its overload.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from tqdm.auto import tqdm

from benchmarks.figures import Figure
from benchmarks.serving.graphs import graph_request, run_time_s, slow_row, write_slow
from benchmarks.serving.load import Outcome, Plan, run_load, stub_server, to_base64

_MODEL_S: Final = 0.02
_MAX_QUEUE: Final = 8
_DEADLINE_S: Final = 2.0
"""Ten times as long as a full queue takes: no admitted call reaches it."""
_LOADS: Final = (0.7, 1.0, 1.5, 2.0, 3.0)
"""Offered calls / capacity; the goodput has its peak at one of them."""
_FULL: Final = 1.0
_OVER: Final = 3.0
_MOST_A_SECOND: Final = 300.0
_WARM_UP_S: Final = 1.0
_CAPACITY_CLIENTS: Final = 2
"""One call waits while the model works on another, so that it never rests."""
_PERCENT: Final = 99
_CONNECTIONS: Final = 64
"""One per device, as in practice. Connections take turns at the server, which refuses a new call at
once, unless another connection has far more calls waiting: then one of those is given up."""


@dataclass(frozen=True)
class _Turn:
    """One turn at one load: its outcome, and the answers per second after the warm-up."""

    outcome: Outcome
    goodput: float

    def p99_ms(self, status: str) -> float:
        """Return p99 of the status's calls that were due after the warm-up."""
        times = self.outcome.durations_s(status, _WARM_UP_S)
        return float(np.percentile(times, _PERCENT)) * 1e3 if times.size else float("inf")


def measure_overload(
    folder: Path, seed: int, rounds: int, *, turn_s: float = 9.0, model_s: float = _MODEL_S
) -> list[Figure]:
    """Return the goodput at three times the capacity, and p99 of admitted and of refused calls.

    Args:
        folder: Folder for the graph, which is scaled to this machine.
        seed: Seed of the graph and of the calls' times.
        rounds: Number of turns of each load.
        turn_s: Length of a turn, in seconds.
        model_s: Time of the model's run, in seconds.
    """
    graph = write_slow(folder / "slow.onnx", model_s, seed)
    with stub_server(graph, "--max-batch", "1", "--max-queue", str(_MAX_QUEUE)) as server:
        request = graph_request(graph, slow_row(seed), server.address)
        plan = partial(Plan, address=server.address, request=to_base64(request))
        capacity = run_load(plan(clients=_CAPACITY_CLIENTS, seconds=turn_s / 2)).rate
        turns = _turns(plan, capacity, seed, rounds, turn_s)
    return _figures(turns, capacity, run_time_s(graph))


def _turns(
    plan: Callable[..., Plan], capacity: float, seed: int, rounds: int, turn_s: float
) -> list[dict[float, _Turn]]:
    turns: list[dict[float, _Turn]] = []
    for i in tqdm(range(rounds), desc="overload", leave=False, disable=None):
        turns.append({})
        for load in _LOADS:
            rate = min(load * capacity, _MOST_A_SECOND)
            outcome = run_load(
                plan(
                    rate=rate,
                    seconds=turn_s,
                    deadline_s=_DEADLINE_S,
                    seed=seed + i,
                    connections=_CONNECTIONS,
                )
            )
            turns[-1][load] = _Turn(outcome, outcome.goodput(_WARM_UP_S, turn_s))
    return turns


def _figures(turns: list[dict[float, _Turn]], capacity: float, model_s: float) -> list[Figure]:
    over = [turn[_OVER] for turn in turns]
    admitted, at_capacity = ([turn[load].p99_ms("OK") for turn in turns] for load in (_OVER, _FULL))
    refused = [turn.p99_ms("RESOURCE_EXHAUSTED") for turn in over]
    name = f"{_OVER:g} x capacity offered: "
    return [
        Figure.of(
            f"{name}goodput / its peak",
            [turn[_OVER].goodput / max(t.goodput for t in turn.values()) for turn in turns],
            0.9,
            "x",
            f"{_goodputs(turns)}; a model of {model_s * 1e3:.1f} ms, capacity {capacity:.1f} "
            f"calls/s, --max-queue {_MAX_QUEUE}, {_CONNECTIONS} connections; median of "
            f"{len(turns)} rounds",
            at_least=True,
        ),
        Figure.of(
            f"{name}p99 of admitted calls / at capacity",
            [a / b for a, b in zip(admitted, at_capacity, strict=True)],
            2.0,
            "x",
            f"{median(admitted):.0f} and {median(at_capacity):.0f} ms, from a call's due time",
        ),
        Figure.of(
            f"{name}p99 of refused calls",
            refused,
            20.0,
            "ms",
            f"{_statuses(over)}; {_late(over)}",
        ),
    ]


def _goodputs(turns: list[dict[float, _Turn]]) -> str:
    medians = (f"{median(t[load].goodput for t in turns):.1f} at {load:g} x" for load in _LOADS)
    return f"{', '.join(medians)} answers/s"


def _statuses(turns: list[_Turn]) -> str:
    total: dict[str, int] = {}
    for turn in turns:
        for status, count in turn.outcome.counts.items():
            total[status] = total.get(status, 0) + count
    return ", ".join(f"{count} {status}" for status, count in sorted(total.items()))


def _late(turns: list[_Turn]) -> str:
    late = np.percentile(np.concatenate([turn.outcome.late_s for turn in turns]), _PERCENT) * 1e3
    return f"calls were sent up to {late:.1f} ms (p99) after they were due"
