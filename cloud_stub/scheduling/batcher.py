"""The dynamic batcher: works on what queued while the workers were busy, off the event loop.

By default nothing waits for company: an idle worker takes what is there, and under load the batches
grow by themselves. With a delay a batch that is not full waits so long for more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias

from cloud_stub.errors import (
    CallError,
    ExpiredError,
    ModelFailureError,
    OverloadError,
    UnavailableError,
)
from cloud_stub.scheduling.queue import FairQueue, Job
from cloud_stub.scheduling.workers import Workers
from edge_runtime.errors import GatekeeperError, SettingError

_LOG: Final = logging.getLogger(__name__)

SPARE_WORKERS: Final = 3
"""Workers that may hang before the model counts as lost."""
_SMOOTHING: Final = 0.2
_Worked: TypeAlias = tuple[Sequence[Any], float]
_MOST: Final = 2**31 - 1  # the protocol's configuration counts in 32 bits


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is worked on at once, and how long anything waits.

    Attributes:
        max_batch: Rows of a batch; a single call with more is worked on alone.
        max_delay_s: How long a batch that is not full waits for more.
        max_queue: Calls that may wait.
        stall_s: A batch that says nothing for longer is given up, and another worker goes on.
    """

    max_batch: int = 32
    max_delay_s: float = 0.0
    max_queue: int = 128
    stall_s: float = 60.0

    def __post_init__(self) -> None:
        if not all(1 <= size <= _MOST for size in (self.max_batch, self.max_queue)):
            raise SettingError(
                f"expected a batch and a queue from 1 to {_MOST}, got {self.max_batch} and "
                f"{self.max_queue}"
            )
        if not (0 <= self.max_delay_s < self.stall_s):
            raise SettingError(
                "expected a delay of 0 s or more, under the stall limit, got "
                f"{self.max_delay_s:g} and {self.stall_s:g}"
            )


class _Run:
    """Jobs that a worker has."""

    __slots__ = ("is_given_up", "jobs", "started")

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.is_given_up = False
        self.started = monotonic()

    @property
    def heard(self) -> float:
        """When it gave its last sign of life."""
        return max(self.started, self.jobs[0].heard)


class Batcher:
    """Runs jobs in batches; used from one event loop alone.

    Args:
        work: Given the jobs of a batch in a worker's thread, returns for each its result or the
            exception it ended in.
        workers: Batches at once.
        limits: How many, how long.
        name: Of the workers' threads.
        record: Told the rows of every batch that was answered and the seconds it took.
        is_continuous: Whether all batches at once have as many rows as one may have.

    Attributes:
        in_flight: Calls that workers have.
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
        self.in_flight = 0
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
        self._hanging = 0
        self._is_closed = False
        self._waker: asyncio.Handle | None = None
        self._is_starting = False
        self._mean_s = 0.0

    @property
    def waiting(self) -> int:
        """How many calls wait for a worker."""
        return len(self._queue)

    @property
    def is_stuck(self) -> bool:
        """Whether so many workers hang that nothing is taken any more."""
        return self._hanging > SPARE_WORKERS

    @property
    def hanging(self) -> int:
        """How many workers have been given up and have not come back."""
        return self._hanging

    async def run(self, job: Job) -> Any:
        """Wait until a worker has worked on a job.

        Raises:
            OverloadError: Too many wait.
            ExpiredError: The deadline passed before its turn came.
            UnavailableError: Too many workers hang, or the batcher was closed.
            CallError: It could not be worked on.
        """
        if self._is_closed:
            raise UnavailableError("the server is shutting down")
        if self.is_stuck:
            raise UnavailableError("the model hangs: this server has to be started again")
        dropped = self._queue.put(job)
        if dropped is not None:
            _fail(
                dropped,
                OverloadError(
                    f"{self.waiting} calls wait already: try again later",
                    pushback_s=self._pushback_s(),
                ),
            )
        self._call_arrived()
        try:
            return await job.future
        except asyncio.CancelledError:
            self._queue.discard(job)
            raise

    def close(self) -> None:
        """Let the workers go; what waits is refused, and who still works counts as hanging."""
        self._is_closed = True
        self._refuse_all("the server is shutting down")
        for run in list(self._running):
            self._abandon(run, UnavailableError, "the server is shutting down")
        self._pool.close()
        for handle in (self._waker, self._watchdog):
            if handle is not None:
                handle.cancel()

    def _call_arrived(self) -> None:
        """Start a batch in the event loop's next round, where a worker is free.

        Calls that arrive together are then worked on together.
        """
        if not self._is_starting and len(self._running) < self._workers:
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start_batches)

    def _wake_later(self, delay_s: float) -> None:
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
                self._wake_later(delay_s)
                return
            room = self._limits.max_batch - self._rows
            if self._rows and self._queue.next_rows > room:
                return  # nobody goes before it, or its turn would never come
            jobs = self._wanted(self._queue.take(room))
            if jobs:
                self._start(_Run(jobs))

    def _delay_s(self) -> float:
        """Return how long the next batch still waits for company."""
        if not self._limits.max_delay_s or self._queue.rows >= self._limits.max_batch:
            return 0.0
        oldest = self._queue.oldest
        if oldest is None:
            return 0.0
        return oldest + self._limits.max_delay_s - monotonic()

    def _wanted(self, jobs: list[Job]) -> list[Job]:
        """Leave out what nobody waits for any more."""
        now = monotonic()
        wanted = []
        for job in jobs:
            if job.deadline <= now:
                _fail(job, ExpiredError("the deadline passed in the queue"))
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
        except RuntimeError as error:  # the system has no thread left, not even one
            self._release(run)
            for job in run.jobs:
                _fail(job, UnavailableError(f"the model cannot be started: {error}"))

    def _hold_rows(self, jobs: list[Job]) -> None:
        """Count rows until their calls are answered, or given up: then others may join."""

        def let_go(rows: int, _: asyncio.Future[Any]) -> None:
            self._rows -= rows
            if self._queue:
                self._call_arrived()

        for job in jobs:
            self._rows += job.rows
            job.future.add_done_callback(partial(let_go, job.rows))

    def _work_on(self, run: _Run) -> _Worked:
        begin = monotonic()
        try:
            results = self._work(run.jobs)
        except BaseException as error:  # noqa: BLE001 - a worker must always report
            failure = _in_words(error)
            results = [failure] * len(run.jobs)
        return results, monotonic() - begin

    def _report(self, run: _Run, loop: asyncio.AbstractEventLoop, worked: _Worked) -> None:
        # Without a loop the grace was over.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._finish, run, *worked)

    def _finish(self, run: _Run, results: Sequence[Any], took_s: float) -> None:
        if run.is_given_up:
            self._hanging -= 1
        else:
            self._release(run)
            self._mean_s += _SMOOTHING * (took_s - self._mean_s)
            if self._record is not None and not all(map(_is_failure, results)):
                self._record(sum(job.rows for job in run.jobs), took_s)
            for job, result in zip(run.jobs, results, strict=True):
                if _is_failure(result):
                    _fail(job, result)
                elif not job.future.done():
                    job.future.set_result(result)
        if self._queue:
            self._start_batches()

    def _watch(self) -> None:
        """Give up what takes too long; one timer for all, a call sets and stops none."""
        begun = monotonic() - self._limits.stall_s
        for run in [run for run in self._running if run.heard <= begun]:
            self._give_up(run)
        # Set only now: what starts meanwhile must not set one of its own beside it.
        self._watchdog = None
        if self._running:
            oldest = min(run.heard for run in self._running)
            self._watchdog = asyncio.get_running_loop().call_later(
                max(oldest - begun, 0.0), self._watch
            )

    def _give_up(self, run: _Run) -> None:
        """Let another worker go on: a thread that hangs cannot be ended."""
        limit_s = self._limits.stall_s
        self._abandon(run, ModelFailureError, f"the model did not answer within {limit_s:g} s")
        if self.is_stuck:
            self._refuse_all("the model hangs")
        elif self._queue:
            self._start_batches()

    def _abandon(self, run: _Run, kind: type[CallError], why: str) -> None:
        run.is_given_up = True
        self._hanging += 1
        self._release(run)
        for job in run.jobs:
            _fail(job, kind(why))

    def _release(self, run: _Run) -> None:
        self._running.discard(run)
        self.in_flight -= len(run.jobs)

    def _refuse_all(self, why: str) -> None:
        while jobs := self._queue.take(self._limits.max_batch):
            for job in jobs:
                _fail(job, UnavailableError(why))

    def _pushback_s(self) -> float:
        """Return about how long it takes to work off what waits."""
        batches = -(-self.waiting // self._limits.max_batch) / self._workers
        return min(max(batches * self._mean_s, 0.01), 5.0)


def _is_failure(result: Any) -> bool:
    return isinstance(result, BaseException)


def _in_words(error: BaseException) -> GatekeeperError:
    """Return what a call may end in: SystemExit, say, would end the event loop with it."""
    if isinstance(error, GatekeeperError):
        return error
    _LOG.error("work failed", exc_info=error)
    return ModelFailureError(f"the model failed: {type(error).__name__}: {error}")


def _fail(job: Job, error: BaseException) -> None:
    if not job.future.done():
        job.future.set_exception(error)
