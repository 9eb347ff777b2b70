"""A batcher with work that waits at a gate, and calls to it."""

import asyncio
import threading
import time
from math import inf

from cloud_stub.asynchronous import timeout
from cloud_stub.scheduling.batcher import Batcher, Limits
from cloud_stub.scheduling.queue import Job

PATIENCE_S = 30.0
"""Longest wait for an expected event; a machine may be slow."""


class Doubling:
    """Work that doubles numbers; batches wait at its gate while that is closed."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.batches = []

    def __call__(self, jobs):
        self.batches.append([job.inputs["number"] for job in jobs])
        assert self.gate.wait(PATIENCE_S)
        return [2 * job.inputs["number"] for job in jobs]


def batcher_of(work, *, workers=1, record=None, **limits):
    return Batcher(work, workers=workers, limits=Limits(**limits), name="test", record=record)


def submit(batcher, number, *, client="a", rows=1, key="k", deadline=inf):
    """Start a call."""
    job = Job({"number": number}, rows, key=key, client=client, deadline=deadline)
    return asyncio.create_task(batcher.run(job))


async def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def occupied(batcher, work, count=1):
    """Return calls that keep workers busy until the gate opens."""
    work.gate.clear()
    calls = []
    for n in range(count):
        calls.append(submit(batcher, -1 - n))
        await until(lambda: len(work.batches) > n)  # noqa: B023 - awaited in the same round
    return calls


def is_idle(batcher):
    return not (batcher.waiting or batcher.in_flight or batcher.hanging or batcher._queue.rows)


def run(scenario):
    async def within_time():
        async with timeout(2 * PATIENCE_S):
            await scenario()

    asyncio.run(within_time())
