"""A bounded queue in which clients take turns, so that none of them starves another.

Fair queueing by turns, and when it is full the client with the most waiting loses its newest call
(McKenney 1990, stochastic fairness queueing) to one that has far fewer: who floods the server fills
only their own share.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

from cloud_stub.backends.backend import Column, Outputs

# MERGEDOC cloud_stub/scheduling/job.py: 'One inference call, from its arrival to its answer.'


_FAR_MORE: Final = 3


class FairQueue:
    """Jobs by client; not safe to share between threads.

    Args:
        limit: Jobs that may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._rows = 0
        # The client whose turn is next comes first.
        self._clients: OrderedDict[str, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows

    @property
    def next_rows(self) -> int:
        """Rows of the job whose turn is next; 0 where none waits."""
        return next((jobs[0].rows for jobs in self._clients.values()), 0)

    @property
    def oldest(self) -> float | None:
        """When the job arrived that waits longest, or None; jobs of a client are in order."""
        return min((jobs[0].arrived for jobs in self._clients.values()), default=None)

    def put(self, job: Job) -> Job | None:
        """Add a job.

        Returns:
            The job that has to go for want of room: this one, or another client's newest; None
            where there was room.
        """
        victim = self._victim(job.client) if self._count >= self._limit else None
        if victim == job.client:
            return job
        dropped = None if victim is None else self._clients[victim].pop()
        if dropped is not None:
            self._removed(dropped)
        self._clients.setdefault(job.client, deque()).append(job)
        self._count += 1
        self._rows += job.rows
        return dropped

    def take(self, most_rows: int) -> list[Job]:
        """Take the next job by turn, and what can be worked on together with it.

        Args:
            most_rows: Rows they may have together; a single job may have more.
        """
        first = self._take_one(None, 0)
        if first is None:
            return []
        jobs, rows = [first], first.rows
        while first.key is not None and rows < most_rows:
            job = self._take_one(first.key, most_rows - rows)
            if job is None:
                break
            jobs.append(job)
            rows += job.rows
        return jobs

    def discard(self, job: Job) -> bool:
        """Remove a job whose caller is gone; returns whether it was still here."""
        jobs = self._clients.get(job.client)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        self._removed(job)
        return True

    def _victim(self, client: str) -> str:
        """Return whose call has to go: of who has far more waiting than the newcomer would have.

        Between equals a call that waits is not given up for one that comes.
        """
        most = max(self._clients, key=lambda name: len(self._clients[name]), default=client)
        own = len(self._clients.get(client, ())) + 1
        waiting = len(self._clients.get(most, ()))
        return most if most != client and waiting > _FAR_MORE * own else client

    def _take_one(self, key: Hashable | None, room: int) -> Job | None:
        for client, jobs in self._clients.items():
            if key is None or (jobs[0].key == key and jobs[0].rows <= room):
                job = jobs.popleft()
                self._clients.move_to_end(client)
                self._removed(job)
                return job
        return None

    def _removed(self, job: Job) -> None:
        self._count -= 1
        self._rows -= job.rows
        if not self._clients[job.client]:
            del self._clients[job.client]


class Result(NamedTuple):
    """What became of a call.

    Attributes:
        outputs: Its rows of the model's outputs.
        compute_s: Seconds that the model worked on the batch it was in.
    """

    outputs: Outputs
    compute_s: float


class Job:
    """A call that waits for a worker or is worked on.

    Args:
        inputs: By name.
        rows: How many.
        key: Jobs of one key can be worked on together; None: only alone.
        client: Whose it is; clients take turns.
        deadline: When the caller gives up, on the clock of `time.monotonic`.
        on_part: Is given every part of an answer that comes bit by bit, in the worker's thread.

    Attributes:
        queue_s: Seconds it waited, once it is taken.
        has_parts: Whether `on_part` was given any.
        heard: When its batch last gave a sign of life, on the clock of `time.monotonic`.
    """

    __slots__ = (
        "arrived",
        "client",
        "deadline",
        "future",
        "has_parts",
        "heard",
        "inputs",
        "key",
        "on_part",
        "queue_s",
        "rows",
    )

    def __init__(
        self,
        inputs: Mapping[str, Column],
        rows: int,
        *,
        key: Hashable,
        client: str,
        deadline: float = inf,
        on_part: Callable[[Outputs], None] | None = None,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key = key
        self.client = client
        self.deadline = deadline
        self.on_part = on_part
        self.has_parts = False
        self.heard = 0.0
        self.arrived = monotonic()
        self.queue_s = 0.0
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(self, ended: Result | Exception) -> None:
        """Answer it from a worker's thread, before its batch has ended."""
        # Without a loop nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self.future.get_loop().call_soon_threadsafe(self._settle, ended)

    def _settle(self, ended: Result | Exception) -> None:
        if self.future.done():
            return
        if isinstance(ended, Exception):
            self.future.set_exception(ended)
        else:
            self.future.set_result(ended)

    def is_wanted(self) -> bool:
        """Whether somebody waits for the answer: it was not given, nor its caller gone."""
        return not self.future.done()
