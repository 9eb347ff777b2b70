"""The load generator: sends one prepared request again and again, and reports the outcome.

It is a process of its own, whose interpreter does nothing but calls, so that neither the server nor
the measurement waits for it. In Python, `grpc.aio` over a few connections costs the least processor
time per call, and it costs the same for every server. The generator reads a plan as JSON from
standard input (see `benchmarks.serving.load`). It prints the number of finished calls now and then,
and the outcome as JSON in its last line.

Closed loop: each client calls again as soon as it has its answer. Open loop: calls are due at
random times drawn beforehand, whether or not earlier ones still wait. Their time counts from the
due time, so that a busy machine, which sends late, cannot hide it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.serving.load import Plan
from edge_runtime.wire import messages as pb

_OK: Final = "OK"
# Otherwise gRPC lets all channels to one address share one connection.
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)
_PROGRESS_LINES: Final = 200  # at most


@dataclass
class _Tally:
    """The calls so far, in microseconds from the start.

    Attributes:
        keeps_times: Whether calls are timed; if not, a million of them need no memory.
        counts: Calls by status.
        times_us: Pairs of due time and duration by status.
        late_us: Delay of each call after its due time; open loop only.
    """

    keeps_times: bool
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    times_us: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    late_us: list[int] = field(default_factory=list)

    def add(self, status: str, due_s: float, duration_s: float) -> None:
        self.counts[status] += 1
        if self.keeps_times:
            self.times_us[status].append((round(due_s * 1e6), round(duration_s * 1e6)))

    @property
    def total(self) -> int:
        return sum(self.counts.values())


async def generate(plan: Plan) -> dict[str, Any]:
    """Make the calls of a plan; return their outcome."""
    request, first = map(base64.b64decode, (plan.request, plan.first or plan.request))
    channels = [
        grpc.aio.insecure_channel(plan.address, options=_OPTIONS) for _ in range(plan.connections)
    ]
    calls = [channel.unary_unary(pb.METHODS["ModelInfer"], None, None) for channel in channels]
    for call in calls:  # connects, one after the other: a short queue would refuse them at once
        await call(first, timeout=30, wait_for_ready=True)
    tally = _Tally(keeps_times=plan.calls is None)
    cpu, start = process_time(), perf_counter()
    loop = _open_loop if plan.rate is not None else _closed_loop
    await loop(plan, request, calls, tally, start)
    wall_s, cpu_s = perf_counter() - start, process_time() - cpu
    for channel in channels:
        await channel.close(None)
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "counts": tally.counts,
        "times_us": tally.times_us,
        "late_us": tally.late_us,
    }


async def _closed_loop(
    plan: Plan, request: bytes, calls: list[Any], tally: _Tally, start: float
) -> None:
    continues = _counted(plan.calls, tally) if plan.calls else _timed(start + plan.seconds)

    async def client(call: Any) -> None:
        while continues():
            begin = perf_counter()
            status = await _status(call, request, plan.deadline_s)
            tally.add(status, begin - start, perf_counter() - begin)

    await asyncio.gather(*(client(calls[i % len(calls)]) for i in range(plan.clients)))


def _timed(end: float) -> Callable[[], bool]:
    return lambda: perf_counter() < end


def _counted(calls: int, tally: _Tally) -> Callable[[], bool]:
    """Return a function that allows this many calls, and prints the progress now and then."""
    started, every = 0, max(1, calls // _PROGRESS_LINES)

    def continues() -> bool:
        nonlocal started
        if started >= calls:
            return False
        started += 1
        if started % every == 0:
            print(tally.total, flush=True)
        return True

    return continues


async def _open_loop(
    plan: Plan, request: bytes, calls: list[Any], tally: _Tally, start: float
) -> None:
    assert plan.rate is not None  # noqa: S101 - narrows the type
    random = np.random.default_rng(plan.seed)
    gaps = random.exponential(1 / plan.rate, size=round(2 * plan.rate * plan.seconds) + 10)
    due_times = np.cumsum(gaps)

    async def one(call: Any, due_s: float) -> None:
        tally.late_us.append(round((perf_counter() - start - due_s) * 1e6))
        status = await _status(call, request, plan.deadline_s)
        tally.add(status, due_s, perf_counter() - start - due_s)

    tasks = []
    for number, due_s in enumerate(due_times[due_times < plan.seconds].tolist()):
        await asyncio.sleep(max(0.0, start + due_s - perf_counter()))
        tasks.append(asyncio.create_task(one(calls[number % len(calls)], due_s)))
    await asyncio.gather(*tasks)


async def _status(call: Any, request: bytes, deadline_s: float) -> str:
    try:
        await call(request, timeout=deadline_s)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return _OK


def main() -> None:
    """Read a plan, make its calls, and print the outcome."""
    try:
        outcome = asyncio.run(generate(Plan(**json.load(sys.stdin))))
    except grpc.aio.AioRpcError as error:  # its own text takes several lines
        sys.exit(f"{error.code().name}: {error.details()}")
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
