"""Measures what a server of a slow model answers while more is asked of it than it can.

Calls come at random times of an open loop, whether or not others still wait: callers that wait
for their answer before they call again would slow down with the server, and hide its overload.
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
from benchmarks.serving.graphs import INPUT, answer, run_s, slow, slow_row
from benchmarks.serving.load import Outcome, Plan, check_answer, in_base64, prepared, put, stub

_MODEL_S: Final = 0.02
_MAX_QUEUE: Final = 8
_DEADLINE_S: Final = 2.0
"""Ten times what the longest queue takes: nobody is late who was let in."""
_LOADS: Final = (0.7, 1.0, 1.5, 2.0, 3.0)
"""Offered calls over capacity; the goodput's peak is sought among them."""
_FULL: Final = 1.0
_OVER: Final = 3.0
_MOST_A_SECOND: Final = 300.0
_WARM_S: Final = 1.0
_CAPACITY_CLIENTS: Final = 2
"""One call waits while another is in the model, which so never rests."""
_PERCENT: Final = 99
_CONNECTIONS: Final = 64
"""As of so many devices: the server gives connections turns, and refuses a new call at once unless
one connection has far more waiting than another, which then has a call of its own given up."""


@dataclass(frozen=True)
class _Turn:
    """What came of one load: the outcome, and answers a second once it was under way."""

    outcome: Outcome
    goodput: float

    def p99_ms(self, status: str) -> float:
        """Return p99 of the calls of a status that were due once it was under way."""
        took = self.outcome.took_s(status, _WARM_S)
        return float(np.percentile(took, _PERCENT)) * 1e3 if took.size else float("inf")


def overload_figures(
    folder: Path, seed: int, rounds: int, *, turn_s: float = 9.0, model_s: float = _MODEL_S
) -> list[Figure]:
    """Return goodput at three times the capacity, and p99 of who is let in and who is refused.

    Args:
        folder: Gets the graph, which is made to take its time on this machine.
        seed: Of the graph, and of when calls come.
        rounds: How often all loads take their turn.
        turn_s: Length of a turn, in seconds.
        model_s: What the model takes, in seconds.
    """
    graph = slow(folder / "slow.onnx", model_s, seed)
    row = slow_row(seed)
    request = prepared(graph.stem, INPUT, row)
    with stub(graph, "--max-batch", "1", "--max-queue", str(_MAX_QUEUE)) as server:
        check_answer(server.address, request, answer(graph, row))
        plan = partial(Plan, address=server.address, request=in_base64(request))
        capacity = put(plan(clients=_CAPACITY_CLIENTS, seconds=turn_s / 2)).rate
        turns = _turns(plan, capacity, seed, rounds, turn_s)
    return _figures(turns, capacity, run_s(graph))


def _turns(
    plan: Callable[..., Plan], capacity: float, seed: int, rounds: int, turn_s: float
) -> list[dict[float, _Turn]]:
    turns: list[dict[float, _Turn]] = []
    for i in tqdm(range(rounds), desc="overload", leave=False, disable=None):
        turns.append({})
        for load in _LOADS:
            rate = min(load * capacity, _MOST_A_SECOND)
            outcome = put(
                plan(
                    rate=rate,
                    seconds=turn_s,
                    deadline_s=_DEADLINE_S,
                    seed=seed + i,
                    connections=_CONNECTIONS,
                )
            )
            turns[-1][load] = _Turn(outcome, outcome.goodput(_WARM_S, turn_s))
    return turns


def _figures(turns: list[dict[float, _Turn]], capacity: float, model_s: float) -> list[Figure]:
    over = [turn[_OVER] for turn in turns]
    admitted, at_capacity = ([turn[load].p99_ms("OK") for turn in turns] for load in (_OVER, _FULL))
    refused = [turn.p99_ms("RESOURCE_EXHAUSTED") for turn in over]
    name = f"{_OVER:g} x capacity offered: "
    return [
        Figure.of(
            f"{name}goodput over its peak",
            [turn[_OVER].goodput / max(t.goodput for t in turn.values()) for turn in turns],
            0.9,
            "x",
            f"{_goodputs(turns)}; a model of {model_s * 1e3:.1f} ms, capacity {capacity:.1f} "
            f"calls/s, --max-queue {_MAX_QUEUE}, {_CONNECTIONS} connections; median of "
            f"{len(turns)} rounds",
            at_least=True,
        ),
        Figure.of(
            f"{name}p99 of the admitted over that at capacity",
            [a / b for a, b in zip(admitted, at_capacity, strict=True)],
            2.0,
            "x",
            f"{median(admitted):.0f} and {median(at_capacity):.0f} ms, from when a call was due",
        ),
        Figure.of(
            f"{name}p99 of the refused",
            refused,
            20.0,
            "ms",
            f"{_statuses(over)}; {_late(over)}",
        ),
    ]


def _goodputs(turns: list[dict[float, _Turn]]) -> str:
    told = (f"{median(t[load].goodput for t in turns):.1f} at {load:g} x" for load in _LOADS)
    return f"{', '.join(told)} answers/s"


def _statuses(turns: list[_Turn]) -> str:
    total: dict[str, int] = {}
    for turn in turns:
        for status, count in turn.outcome.counts.items():
            total[status] = total.get(status, 0) + count
    return ", ".join(f"{count} {status}" for status, count in sorted(total.items()))


def _late(turns: list[_Turn]) -> str:
    late = np.percentile(np.concatenate([turn.outcome.late_s for turn in turns]), _PERCENT) * 1e3
    return f"calls were made up to {late:.1f} ms (p99) after they were due"
