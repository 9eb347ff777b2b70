"""A bounded queue in which clients take turns, so that none of them starves another.

Fair queueing by turns. When the queue is full, the client with the most waiting calls loses its
newest one (McKenney 1990, stochastic fairness queueing) to a client that has far fewer: a flood
fills only the share of the client that sends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

from cloud_stub.backends.backend import Column, Outputs

MOST_BYTES: Final = 16 << 20
"""Most bytes of a batch's inputs: the model makes a multiple of them."""
_FAR_MORE: Final = 3


class Result(NamedTuple):
    """The answer to a call.

    Attributes:
        outputs: Its rows of the model's outputs.
        compute_s: Seconds that the model worked on its batch.
    """

    outputs: Outputs
    compute_s: float


@dataclass(slots=True, eq=False)
class Job:
    """An inference call that waits for a worker or is worked on.

    Attributes:
        inputs: Columns by name.
        rows: Number of rows.
        key: Key of jobs that can be worked on together; None for a job that runs alone.
        client: The job's client; clients take turns.
        deadline: Time at which the caller gives up, on the clock of `time.monotonic`.
        on_part: Function that gets every part of an answer that grows, in the worker's thread.
        has_parts: Whether `on_part` was called.
        arrived: Time of its arrival, on the same clock.
        queue_s: Seconds that it waited, once a worker has it.
        alive_s: Time of its batch's last sign of life, on the same clock.
        piece: Number of the piece of a larger call that it is, from 0; None for a whole call.
        future: The result, or the exception it ended in.
    """

    inputs: Mapping[str, Column]
    rows: int
    _: KW_ONLY
    key: Hashable
    client: str
    deadline: float = inf
    on_part: Callable[[Outputs], None] | None = None
    has_parts: bool = False
    arrived: float = field(default_factory=monotonic)
    queue_s: float = 0.0
    alive_s: float = 0.0
    piece: int | None = None
    future: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def answer(self, result: Result | Exception) -> None:
        """Answer the job from a worker's thread, before its batch has ended."""
        # Without a loop nobody is waiting any more.
        with contextlib.suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self.finish, result)

    @property
    def size(self) -> int:
        """Bytes of the inputs' content."""
        return sum(size_of(column) for column in self.inputs.values())

    @property
    def is_begun(self) -> bool:
        """True for a piece of a call whose first pieces are done."""
        return bool(self.piece)

    def finish(self, result: Any) -> None:
        """Answer the job on the event loop, unless it has an answer or its caller is gone."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)

    def is_wanted(self) -> bool:
        """Return whether a caller is still waiting for an answer."""
        return not self.future.done()


def size_of(value: Any) -> int:
    """Return the bytes of a column, or of one of its values."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return len(value) if hasattr(value, "__len__") else 0


class FairQueue:
    """Jobs by client; not thread-safe.

    Args:
        limit: Most jobs that may wait.

    Attributes:
        rows: Number of rows that are waiting.
    """

    def __init__(self, limit: int) -> None:
        self.rows = 0
        self._limit = limit
        self._count = 0
        # The client whose turn is next comes first.
        self._clients: OrderedDict[str, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    @property
    def next_rows(self) -> int:
        """Rows of the job whose turn is next; 0 if the queue is empty."""
        return next((jobs[0].rows for jobs in self._clients.values()), 0)

    @property
    def oldest(self) -> float | None:
        """Arrival of the job that has waited longest, or None; a client's jobs are in order."""
        return min((jobs[0].arrived for jobs in self._clients.values()), default=None)

    @property
    def is_large(self) -> bool:
        """True if the next job of a client is a piece: the other rows of its call come after it."""
        return any(jobs[0].piece is not None for jobs in self._clients.values())

    def put(self, job: Job) -> Job | None:
        """Add a job; a call that is begun always has room, in the place that it had.

        Returns:
            The job that has to leave for lack of room: this one, or another client's newest; None
            if there was room.
        """
        dropped = None
        if self._count >= self._limit and not job.is_begun:
            dropped = self._newest(self._victim(job.client), job)
            if dropped is job:
                return job
            self.discard(dropped)
        jobs = self._clients.setdefault(job.client, deque())
        place = len(jobs)
        if job.is_begun:
            # Calls of one piece go first. Other large calls wait until this one is done: if all of
            # them advanced together, all would end late.
            place = next((n for n, other in enumerate(jobs) if other.piece == 0), place)
        jobs.insert(place, job)
        self._count += 1
        self.rows += job.rows
        return dropped

    def take(self, most_rows: int, most_bytes: int = MOST_BYTES) -> list[Job]:
        """Take the job whose turn is next, and the jobs that can be worked on together with it.

        Args:
            most_rows: Most rows that they may have together; a single job may have more.
            most_bytes: Most bytes that their inputs may have together, likewise.
        """
        first = self._take_one(None, 0, 0)
        if first is None:
            return []
        jobs, rows = [first], first.rows
        room = most_bytes
        while first.key is not None and rows < most_rows:
            room -= jobs[-1].size
            job = self._take_one(first.key, most_rows - rows, room)
            if job is None:
                break
            jobs.append(job)
            rows += job.rows
        return jobs

    def discard(self, job: Job) -> bool:
        """Remove a job whose caller is gone; return whether it was still in the queue."""
        jobs = self._clients.get(job.client)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        self._uncount(job)
        return True

    def _victim(self, client: str) -> str:
        """Return the client that loses a call: one with far more calls than the newcomer will have.

        Between equals a waiting call is not given up for a new one.
        """
        most = max(self._clients, key=lambda name: len(self._clients[name]), default=client)
        own = len(self._clients.get(client, ())) + 1
        waiting = len(self._clients.get(most, ()))
        return most if most != client and waiting > _FAR_MORE * own else client

    def _newest(self, client: str, newcomer: Job) -> Job:
        """Return a client's newest call that is not begun; the newcomer if there is none."""
        if client == newcomer.client:
            return newcomer
        return next((job for job in reversed(self._clients[client]) if not job.is_begun), newcomer)

    def _take_one(self, key: Hashable | None, rows: int, size: int) -> Job | None:
        for client, jobs in self._clients.items():
            if key is None or (
                jobs[0].key == key and jobs[0].rows <= rows and jobs[0].size <= size
            ):
                job = jobs.popleft()
                self._clients.move_to_end(client)
                self._uncount(job)
                return job
        return None

    def _uncount(self, job: Job) -> None:
        self._count -= 1
        self.rows -= job.rows
        if not self._clients[job.client]:
            del self._clients[job.client]
