"""The dynamic batcher: works on all calls that queued while the workers were busy.

By default no call waits for others: an idle worker takes those that are there, and under load the
batches grow by themselves. With a delay, a batch that is not full waits that long for more rows.
The work itself runs outside the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from cloud_stub.errors import (
    CallError,
    ExpiredError,
    ModelFailureError,
    OverloadError,
    UnavailableError,
    out_of_memory,
)
from cloud_stub.scheduling.queue import MOST_BYTES, FairQueue, Job
from cloud_stub.scheduling.workers import Workers
from edge_runtime.errors import GatekeeperError, SettingError

_LOG: Final = logging.getLogger(__name__)

SPARE_WORKERS: Final = 3
"""Workers that may hang before the model counts as lost."""
MOST_CALLS: Final = 2**31 - 1  # the protocol's configuration counts in 32 bits
_SMOOTHING: Final = 0.2
_Outcome: TypeAlias = tuple[Sequence[Any], float]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of batches, of the queue and of waiting.

    Attributes:
        max_batch: Most rows of a batch; a single job with more rows runs alone.
        max_delay_s: Longest wait of a batch that is not full.
        max_queue: Most calls that may wait.
        stall_s: Seconds without a sign of life after which a batch is given up and another worker
            takes over.
    """

    max_batch: int = 32
    max_delay_s: float = 0.0
    max_queue: int = 128
    stall_s: float = 60.0

    def __post_init__(self) -> None:
        if not all(1 <= size <= MOST_CALLS for size in (self.max_batch, self.max_queue)):
            raise SettingError(
                f"expected a batch and a queue from 1 to {MOST_CALLS}, got {self.max_batch} and "
                f"{self.max_queue}"
            )
        if not (0 <= self.max_delay_s < self.stall_s):
            raise SettingError(
                "expected a delay of 0 s or more and below the stall limit, got "
                f"{self.max_delay_s:g} s and {self.stall_s:g} s"
            )


@dataclass(slots=True, eq=False)
class _Run:
    """Jobs that a worker has."""

    jobs: list[Job]
    started: float = field(default_factory=monotonic)
    is_given_up: bool = False

    @property
    def alive_s(self) -> float:
        """Time of the last sign of life."""
        return max(self.started, self.jobs[0].alive_s)


class Batcher:
    """Runs jobs in batches; for use from one event loop.

    Args:
        work: Function that gets the jobs of a batch in a worker's thread and returns, for each,
            its result or the exception it ended in.
        workers: Number of batches at once.
        limits: Limits of batches, queue and waiting.
        name: Name of the workers' threads.
        record: Function that gets the rows of every answered batch and the seconds it took.
        is_continuous: Whether all batches together have at most as many rows as a single one may.

    Attributes:
        in_flight: Number of calls that workers have.
        hanging: Number of workers that were given up and have not come back.
        most_bytes: Most bytes of the inputs of a batch of several jobs.
    """

    def __init__(
        self,
        work: Callable[[list[Job]], Sequence[Any]],
        *,
        workers: int,
        limits: Limits,
        name: str,
        record: Callable[[int, float], None] | None = None,
        is_continuous: bool = False,
    ) -> None:
        self.in_flight = self.hanging = 0
        self.most_bytes = MOST_BYTES
        self._work = work
        self._record = record
        self._workers = workers
        self._limits = limits
        self._is_continuous = is_continuous
        self._rows = 0
        self._queue = FairQueue(limits.max_queue)
        self._pool = Workers(workers + SPARE_WORKERS, name)
        self._running: set[_Run] = set()
        self._watchdog: asyncio.Handle | None = None
        self._waker: asyncio.Handle | None = None
        self._is_closed = self._is_starting = False
        self._mean_s = 0.0

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a worker."""
        return len(self._queue)

    @property
    def is_stuck(self) -> bool:
        """True once more workers hang than can be replaced: no call is accepted any more."""
        return self.hanging > SPARE_WORKERS

    async def run(self, job: Job) -> Any:
        """Wait until a worker has worked on a job, and return the result.

        Raises:
            OverloadError: Too many calls are waiting.
            ExpiredError: The deadline passed before its turn came.
            UnavailableError: Too many workers hang, or the batcher was closed.
            CallError: It could not be worked on.
        """
        if self._is_closed:
            raise UnavailableError("the server is shutting down")
        if self.is_stuck:
            raise UnavailableError("the model hangs: this server has to be restarted")
        dropped = self._queue.put(job)
        if dropped is not None:
            dropped.finish(
                OverloadError(
                    f"{self.waiting} calls are waiting already: try again later",
                    pushback_s=self._pushback_s(),
                )
            )
        self._start_soon()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._queue.discard(job)
            raise

    def close(self) -> None:
        """Release the workers; waiting calls are refused, and busy workers count as hanging."""
        self._is_closed = True
        self._refuse_all("the server is shutting down")
        for run in list(self._running):
            self._abandon(run, UnavailableError, "the server is shutting down")
        self._pool.close()
        for handle in (self._waker, self._watchdog):
            if handle is not None:
                handle.cancel()

    def _start_soon(self) -> None:
        """Start a batch in the next round of the event loop, if a worker is free.

        Calls that arrive together are then worked on together.
        """
        if not self._is_starting and len(self._running) < self._workers:
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start_batches)

    def _start_later(self, delay_s: float) -> None:
        if self._waker is None:
            loop = asyncio.get_running_loop()
            self._waker = loop.call_later(delay_s, self._start_batches)

    def _start_batches(self) -> None:
        self._is_starting = False
        if self._waker is not None:
            self._waker.cancel()
            self._waker = None
        while self._queue and len(self._running) < self._workers and not self.is_stuck:
            delay_s = self._delay_s()
            if delay_s > 0:
                self._start_later(delay_s)
                return
            room = self._limits.max_batch - self._rows
            if self._rows and self._queue.next_rows > room:
                return  # no other job may overtake it, or its turn would never come
            jobs = self._keep_wanted(self._queue.take(room, self.most_bytes))
            if jobs:
                self._start(_Run(jobs))

    def _delay_s(self) -> float:
        """Return how long the next batch still waits for more rows."""
        if not self._limits.max_delay_s or self._queue.rows >= self._limits.max_batch:
            return 0.0
        oldest = self._queue.oldest
        if oldest is None or self._queue.is_large:
            return 0.0
        return oldest + self._limits.max_delay_s - monotonic()

    def _keep_wanted(self, jobs: list[Job]) -> list[Job]:
        """Return the jobs whose callers are still waiting."""
        now = monotonic()
        wanted = []
        for job in jobs:
            if job.deadline <= now:
                job.finish(ExpiredError("the deadline passed in the queue"))
            elif job.is_wanted():
                job.queue_s = now - job.arrived
                wanted.append(job)
        return wanted

    def _start(self, run: _Run) -> None:
        loop = asyncio.get_running_loop()
        self._running.add(run)
        self.in_flight += len(run.jobs)
        if self._is_continuous:
            self._hold_rows(run.jobs)
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._limits.stall_s, self._watch)
        try:
            self._pool.submit(partial(self._work_on, run), partial(self._report, run, loop))
        except (MemoryError, RuntimeError):  # the system has no thread left
            _LOG.warning("no thread was left for a call")
            self._release(run)
            for job in run.jobs:
                job.finish(out_of_memory())

    def _hold_rows(self, jobs: list[Job]) -> None:
        """Count rows until their calls are answered or given up; then others may join."""

        def release(rows: int, _: asyncio.Future[Any]) -> None:
            self._rows -= rows
            if self._queue:
                self._start_soon()

        for job in jobs:
            self._rows += job.rows
            job.future.add_done_callback(partial(release, job.rows))

    def _work_on(self, run: _Run) -> _Outcome:
        begin = monotonic()
        try:
            results = self._work(run.jobs)
        except BaseException as error:  # noqa: BLE001 - a worker must always report
            results = [_failure(error)] * len(run.jobs)
        return results, monotonic() - begin

    def _report(self, run: _Run, loop: asyncio.AbstractEventLoop, outcome: _Outcome) -> None:
        # Once the grace is over there is no loop.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._finish, run, *outcome)

    def _finish(self, run: _Run, results: Sequence[Any], took_s: float) -> None:
        if run.is_given_up:
            self.hanging -= 1
        else:
            self._release(run)
            self._mean_s += _SMOOTHING * (took_s - self._mean_s)
            has_failed = [isinstance(result, BaseException) for result in results]
            if self._record is not None and not all(has_failed):
                self._record(sum(job.rows for job in run.jobs), took_s)
            for job, result in zip(run.jobs, results, strict=True):
                job.finish(result)
        if any(job.piece is not None for job in run.jobs):
            self._start_soon()  # the next piece must be in the queue, or its call loses its place
        elif self._queue:
            self._start_batches()

    def _watch(self) -> None:
        """Give up runs that stall; one timer for all, so that a call sets and cancels none."""
        limit = monotonic() - self._limits.stall_s
        for run in [run for run in self._running if run.alive_s <= limit]:
            self._give_up(run)
        # Set only now: a run that starts meanwhile must not set a second timer.
        self._watchdog = None
        if self._running:
            oldest = min(run.alive_s for run in self._running)
            self._watchdog = asyncio.get_running_loop().call_later(
                max(oldest - limit, 0.0), self._watch
            )

    def _give_up(self, run: _Run) -> None:
        """Let another worker take over: a thread that hangs cannot be ended."""
        limit_s = self._limits.stall_s
        self._abandon(run, ModelFailureError, f"the model did not answer within {limit_s:g} s")
        if self.is_stuck:
            self._refuse_all("the model hangs")
        elif self._queue:
            self._start_batches()

    def _abandon(self, run: _Run, kind: type[CallError], reason: str) -> None:
        run.is_given_up = True
        self.hanging += 1
        self._release(run)
        for job in run.jobs:
            job.finish(kind(reason))

    def _release(self, run: _Run) -> None:
        self._running.discard(run)
        self.in_flight -= len(run.jobs)

    def _refuse_all(self, reason: str) -> None:
        while jobs := self._queue.take(self._limits.max_batch):
            for job in jobs:
                job.finish(UnavailableError(reason))

    def _pushback_s(self) -> float:
        """Return about how long it takes to work through the queue."""
        batches = -(-self.waiting // self._limits.max_batch) / self._workers
        return min(max(batches * self._mean_s, 0.01), 5.0)


def _failure(error: BaseException) -> GatekeeperError:
    """Return the error for the calls: SystemExit, for example, would end the event loop."""
    if isinstance(error, GatekeeperError):
        return error
    _LOG.error("work failed", exc_info=error)
    return ModelFailureError(f"the model failed: {type(error).__name__}: {error}")
