"""Makes calls of one prepared request, and tells how each of them went.

A process of its own: its interpreter is busy with nothing but calls, so that neither the server nor
the one who measures waits for it. grpc.aio over a few connections takes the least processor time a
call of what Python has, and the same of every server that is asked. Reads a plan as JSON from
standard input (see `benchmarks.serving.load`); prints a line with the number of calls now and then,
and as its last line what came of them as JSON.

Closed loop: each client calls again as soon as it is answered. Open loop: calls come at random
times that were drawn before, whether or not others still wait, and their time counts from then:
one who calls late because the machine is busy must not hide it.
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
_PROGRESS: Final = 200
"""Lines of progress at most."""


@dataclass
class _Tally:
    """What came of the calls: by status, when each was due and how long it took, in microseconds.

    Attributes:
        keeps_times: Without, calls are only counted: a million need no memory.
        counts: Calls by status.
        times_us: [due, took] of each call by status, from the start on.
        late_us: How long after it was due each call was made, open loop only.
    """

    keeps_times: bool
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    times_us: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    late_us: list[int] = field(default_factory=list)

    def add(self, status: str, due_s: float, took_s: float) -> None:
        self.counts[status] += 1
        if self.keeps_times:
            self.times_us[status].append((round(due_s * 1e6), round(took_s * 1e6)))

    @property
    def total(self) -> int:
        return sum(self.counts.values())


async def generate(plan: Plan) -> dict[str, Any]:
    """Make the calls of a plan, and return what came of them."""
    request = base64.b64decode(plan.request)
    channels = [
        grpc.aio.insecure_channel(plan.address, options=_OPTIONS) for _ in range(plan.connections)
    ]
    calls = [channel.unary_unary(pb.METHODS["ModelInfer"], None, None) for channel in channels]
    for call in calls:  # connects; one after the other, or a short queue would refuse them
        await call(request, timeout=30, wait_for_ready=True)
    tally = _Tally(keeps_times=plan.calls is None)
    cpu, start = process_time(), perf_counter()
    how = _open_loop if plan.rate is not None else _closed_loop
    await how(plan, request, calls, tally, start)
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
    goes_on = _counted(plan.calls, tally) if plan.calls else _timed(start + plan.seconds)

    async def client(call: Any) -> None:
        while goes_on():
            begin = perf_counter()
            status = await _status(call, request, plan.deadline_s)
            tally.add(status, begin - start, perf_counter() - begin)

    await asyncio.gather(*(client(calls[i % len(calls)]) for i in range(plan.clients)))


def _timed(end: float) -> Callable[[], bool]:
    return lambda: perf_counter() < end


def _counted(calls: int, tally: _Tally) -> Callable[[], bool]:
    """Return whether another call is to be made; it says now and then how many there were."""
    begun, every = 0, max(1, calls // _PROGRESS)

    def goes_on() -> bool:
        nonlocal begun
        if begun >= calls:
            return False
        begun += 1
        if begun % every == 0:
            print(tally.total, flush=True)
        return True

    return goes_on


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

    made = []
    for number, due_s in enumerate(due_times[due_times < plan.seconds].tolist()):
        await asyncio.sleep(max(0.0, start + due_s - perf_counter()))
        made.append(asyncio.create_task(one(calls[number % len(calls)], due_s)))
    await asyncio.gather(*made)


async def _status(call: Any, request: bytes, deadline_s: float) -> str:
    try:
        await call(request, timeout=deadline_s)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return _OK


def main() -> None:
    """Read a plan, make its calls, print what came of them."""
    try:
        outcome = asyncio.run(generate(Plan(**json.load(sys.stdin))))
    except grpc.aio.AioRpcError as error:  # its own text takes several lines
        sys.exit(f"{error.code().name}: {error.details()}")
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
