"""Measures what callers notice while the server of M_L is gone for some seconds.

A hundred calls per second, all of them deferred, start on time whether or not earlier ones still
wait: a caller that waits for its answer before the next call would hide the outage.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.figures import Figure
from benchmarks.latency import random_input
from benchmarks.processes import Server
from edge_runtime import Cascade, CloudCircuitOpenError, CloudDeadlineError, Source

_RATE: Final = 100
"""Calls per second."""
_DEADLINE_S: Final = 0.5
_SLACK_S: Final = 0.05
"""What a call may take on top of its wait for the cloud: M_S, and a thread that wakes up late."""
_BEFORE_S: Final = 1.0
_AFTER_S: Final = 4.0
# Twice as many as can wait for their deadline at once.
_CALLERS: Final = int(2 * _RATE * _DEADLINE_S)


@dataclass(frozen=True)
class _Call:
    """One call: its begin and end (monotonic, in seconds), who answered, and why not M_L."""

    begin: float
    end: float
    source: Source
    error: str

    @property
    def duration_s(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class _Outage:
    """The calls around one outage, in order of their begin, and the time of the server's return."""

    calls: list[_Call]
    return_time: float


class _Failure(NamedTuple):
    """A way to lose a server, and to restore it; restoring returns the time of the return."""

    name: str
    lose: Callable[[Server], object]
    restore: Callable[[Server], float]


def measure_outages(bundle: Path, seed: int, *, outage_s: float = 10.0) -> list[Figure]:
    """Return three figures for a server that is killed, and three for one that is halted.

    Args:
        bundle: Bundle with a class "0", the only one that the echo server knows.
        seed: Seed of the picture.
        outage_s: Length of the outage, in seconds.

    Raises:
        ServerStartError: The server did not come up.
    """
    halt = partial(_send, number=signal.SIGSTOP)
    resume = partial(_send, number=signal.SIGCONT)
    return [
        figure
        for failure in (_Failure("killed", Server.kill, _start), _Failure("halted", halt, resume))
        for figure in _figures(failure.name, _run(bundle, seed, outage_s, failure), outage_s)
    ]


def _run(bundle: Path, seed: int, outage_s: float, failure: _Failure) -> _Outage:
    with (
        Server(["benchmarks.runtime.echo_server"]) as server,
        Cascade.open(
            bundle,
            cloud=server.address,
            threshold=float("inf"),
            threads=1,
            deadline_s=_DEADLINE_S,
        ) as cascade,
        ThreadPoolExecutor(_CALLERS) as callers,
        ThreadPoolExecutor(1) as saboteur,
    ):
        picture = random_input(cascade.edge.metadata.input, seed)
        one_call = partial(_call, cascade, picture)
        one_call()  # connects
        start = monotonic()
        returned = saboteur.submit(_interrupt, server, outage_s, failure)
        calls: list[Future[_Call]] = []
        while not returned.done() or monotonic() < returned.result() + _AFTER_S:
            sleep(max(0.0, start + len(calls) / _RATE - monotonic()))
            calls.append(callers.submit(one_call))
        done = [call.result() for call in calls]
    return _Outage(sorted(done, key=lambda call: call.begin), returned.result())


def _interrupt(server: Server, outage_s: float, failure: _Failure) -> float:
    sleep(_BEFORE_S)
    failure.lose(server)
    sleep(outage_s)
    return failure.restore(server)


def _send(server: Server, *, number: signal.Signals) -> float:
    """Send a signal; return the time."""
    now = monotonic()
    server.send(number)
    return now


def _start(server: Server) -> float:
    """Start the server at its old address; return the time when it was ready."""
    server.start()
    return monotonic()


def _call(cascade: Cascade, picture: Any) -> _Call:
    begin = monotonic()
    answer = cascade(picture)
    return _Call(begin, monotonic(), answer.source, answer.error or "")


def _figures(failure: str, outage: _Outage, outage_s: float) -> list[Figure]:
    name = f"server {failure} for {outage_s:g} s: "
    times = np.array([call.duration_s for call in outage.calls])
    late = int((times > _DEADLINE_S + _SLACK_S).sum())
    # From the first call that was kept off the server on, whatever became of the others.
    refused = (c.begin for c in outage.calls if _failed_with(CloudCircuitOpenError, c))
    opened = min(refused, default=float("inf"))
    kept_off = [c.duration_s for c in outage.calls if opened <= c.begin < outage.return_time]
    p99_ms = float(np.percentile(kept_off, 99)) * 1e3 if kept_off else float("inf")
    answered = [c.end for c in outage.calls if c.source is Source.CLOUD and c.begin > opened]
    first_s = max(0.0, min(answered, default=float("inf")) - outage.return_time)
    timed_out = sum(_failed_with(CloudDeadlineError, call) for call in outage.calls)
    return [
        Figure(
            f"{name}calls over their deadline",
            late,
            0,
            "",
            f"{len(times)} calls, {_RATE} a second, the longest {times.max() * 1e3:.0f} ms of "
            f"{_DEADLINE_S * 1e3:g}",
        ),
        Figure(
            f"{name}p99 once the breaker is open",
            p99_ms,
            5.0,
            "ms",
            f"{len(kept_off)} calls; {timed_out} reached their deadline before that",
        ),
        Figure(f"{name}first cloud answer", first_s, 3.0, "s", "after the server's return"),
    ]


def _failed_with(kind: type[Exception], call: _Call) -> bool:
    return call.error.startswith(kind.__name__)
