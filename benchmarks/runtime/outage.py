"""Measures what callers notice while the server of M_L is gone for some seconds.

A hundred calls a second, every one deferred, come at their times whether or not others still wait:
a caller that waits for its answer before it asks again would hide an outage from the measurement.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import numpy as np

from benchmarks.figures import Figure
from benchmarks.latency import random_input
from benchmarks.processes import Server
from edge_runtime import Cascade, Source

_RATE: Final = 100
"""Calls a second."""
_DEADLINE_S: Final = 0.5
_SLACK_S: Final = 0.05
"""What a call may take beside its wait for the cloud: M_S, and a thread that is woken late."""
_BEFORE_S: Final = 1.0
_AFTER_S: Final = 4.0
# All that can wait for their deadline at once, and as many again.
_CALLERS: Final = int(2 * _RATE * _DEADLINE_S)
_IS_OPEN: Final = "circuit breaker is open"


@dataclass(frozen=True)
class _Call:
    """One call: when it began and ended (monotonic, seconds), who answered, and why not M_L."""

    begin: float
    end: float
    source: Source
    error: str

    @property
    def took_s(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class _Soak:
    """The calls of one outage, in order of their begin, and when the server was back."""

    calls: list[_Call]
    back: float


def outage_figures(bundle: Path, seed: int, *, outage_s: float = 10.0) -> list[Figure]:
    """Return three figures for a server that is killed, and three for one that is halted.

    Args:
        bundle: Folder of a bundle that has a class "0", the only one the echo server knows.
        seed: Of the picture.
        outage_s: How long the server is gone, in seconds.

    Raises:
        ServerStartError: The server did not come up.
    """
    halt = partial(_send, number=signal.SIGSTOP)
    go_on = partial(_send, number=signal.SIGCONT)
    return [
        *_figures("killed", _soak(bundle, seed, outage_s, Server.kill, _start), outage_s),
        *_figures("halted", _soak(bundle, seed, outage_s, halt, go_on), outage_s),
    ]


def _soak(
    bundle: Path,
    seed: int,
    outage_s: float,
    lose: Callable[[Server], object],
    restore: Callable[[Server], float],
) -> _Soak:
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
        ThreadPoolExecutor(1) as fate,
    ):
        picture = random_input(cascade.edge.metadata.input, seed)
        one_call = partial(_call, cascade, picture)
        one_call()  # connects
        start = monotonic()
        back = fate.submit(_let_it_be_gone, server, outage_s, lose, restore)
        calls: list[Future[_Call]] = []
        while not back.done() or monotonic() < back.result() + _AFTER_S:
            sleep(max(0.0, start + len(calls) / _RATE - monotonic()))
            calls.append(callers.submit(one_call))
        done = [call.result() for call in calls]
    return _Soak(sorted(done, key=lambda call: call.begin), back.result())


def _let_it_be_gone(
    server: Server,
    outage_s: float,
    lose: Callable[[Server], object],
    restore: Callable[[Server], float],
) -> float:
    sleep(_BEFORE_S)
    lose(server)
    sleep(outage_s)
    return restore(server)


def _send(server: Server, *, number: signal.Signals) -> float:
    """Send a signal, and return when."""
    now = monotonic()
    server.send(number)
    return now


def _start(server: Server) -> float:
    """Start the server at its old address, and return when it said that it is ready."""
    server.start()
    return monotonic()


def _call(cascade: Cascade, picture: Any) -> _Call:
    begin = monotonic()
    answer = cascade(picture)
    return _Call(begin, monotonic(), answer.source, answer.error or "")


def _figures(how: str, soak: _Soak, outage_s: float) -> list[Figure]:
    name = f"server {how} for {outage_s:g} s: "
    times = np.array([call.took_s for call in soak.calls])
    late = int((times > _DEADLINE_S + _SLACK_S).sum())
    # From the first call that was kept off the server on, whatever became of the others.
    opened = min((c.begin for c in soak.calls if _IS_OPEN in c.error), default=float("inf"))
    kept_off = [call.took_s for call in soak.calls if opened <= call.begin < soak.back]
    p99_ms = float(np.percentile(kept_off, 99)) * 1e3 if kept_off else float("inf")
    answered = [c.end for c in soak.calls if c.source is Source.CLOUD and c.begin > opened]
    first_s = max(0.0, min(answered, default=float("inf")) - soak.back)
    asked = f"{len(times)} calls, {_RATE} a second"
    waited = sum(call.error.startswith("CloudDeadlineError") for call in soak.calls)
    return [
        Figure(
            f"{name}calls over their deadline",
            late,
            0,
            "",
            f"{asked}, the longest {times.max() * 1e3:.0f} ms of {_DEADLINE_S * 1e3:g}",
        ),
        Figure(
            f"{name}p99 once the breaker is open",
            p99_ms,
            5.0,
            "ms",
            f"{len(kept_off)} calls; {waited} had waited for their deadline before",
        ),
        Figure(
            f"{name}first cloud answer",
            first_s,
            3.0,
            "s",
            "after the server's return",
        ),
    ]
