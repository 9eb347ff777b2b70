"""Cuts large calls into pieces that take turns with the other calls.

A model that has begun a batch cannot be interrupted, so a batch must be short: at most about half
as long again as the model's shortest one, whatever a message holds. Between two pieces other calls
are worked on, and the rest of a call whose caller has left or whose deadline has passed is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final

import numpy as np

from cloud_stub.backends.backend import Column, Outputs
from cloud_stub.errors import CallError, ExpiredError, RefusedRowsError
from cloud_stub.scheduling.batcher import Batcher
from cloud_stub.scheduling.queue import MOST_BYTES, Job, Result, size_of
from cloud_stub.scheduling.workers import MIB
from edge_runtime.wire.tensors import Array

_LEAST_S: Final = 0.002
"""A piece may take as long in any case: handing it over takes a tenth of that."""
_SHORTEST_BATCHES: Final = 1.5
_DECAY: Final = 1.01
_FIRST_ROWS: Final = 4
_HEAVY_BYTES: Final = 2 * MIB
_HEAVY: Final = 2
_BLANK: Final[Mapping[str, Any]] = {"f": np.nan, "O": b""}
"""By kind of an output's type: the value of a row that is not answered yet."""


class Pace:
    """Chooses how many rows a piece has, by the time that the pieces before it took.

    Small rows take a time of their own, large ones a time for each byte, and a server gets both.

    Args:
        max_batch: Most rows of a piece.
        is_timed: Whether batches show how long rows take; otherwise a piece has half of
            `max_batch`, and the other half is left to other calls.

    Attributes:
        most_bytes: Most bytes of a piece of several rows.
    """

    def __init__(self, max_batch: int, *, is_timed: bool = True) -> None:
        self._most = max_batch if is_timed else max(1, max_batch // 2)
        self._is_timed = is_timed
        self.most_bytes = MOST_BYTES
        self._shortest_s = self._row_s = self._byte_s = inf

    def observe_batch(self, took_s: float) -> None:
        """Note how long a batch took; short ones show what other calls are used to."""
        self._shortest_s = min(took_s, self._shortest_s * _DECAY)

    def observe_piece(self, rows: int, size: int, took_s: float) -> None:
        """Note how long a piece of so many rows and bytes took."""
        # The shortest times: a processor that others keep busy says nothing about the rows.
        self._row_s = min(took_s / rows, self._row_s * _DECAY)
        self._byte_s = min(took_s / max(size, 1), self._byte_s * _DECAY)

    def next_piece(self, inputs: Mapping[str, Column], start: int, rows: int) -> tuple[int, int]:
        """Return the end of the piece that begins at a row, and its size in bytes."""
        is_first = self._is_timed and self._row_s == inf
        end, size = start, 0
        for row in range(start, min(rows, start + (_FIRST_ROWS if is_first else self._most))):
            more = sum(size_of(column[row]) for column in inputs.values())
            if row > start and not self._has_time(row + 1 - start, size + more):
                break
            end, size = row + 1, size + more
        return end, size

    def is_heavy(self, size: int) -> bool:
        """Return whether a piece of one row takes far longer than a piece should."""
        if size <= _HEAVY_BYTES:
            return False
        return self._row_s == inf or not self._has_time(1, size, _HEAVY)

    def _has_time(self, rows: int, size: int, pieces: int = 1) -> bool:
        """Return whether rows of so many bytes together fit into the time of some pieces."""
        if size > pieces * self.most_bytes:
            return False
        if not self._is_timed or self._row_s == inf:
            return True
        time_s = max(_LEAST_S, _SHORTEST_BATCHES * self._shortest_s)
        return max(rows * self._row_s, size * self._byte_s) <= pieces * time_s


class Pieces:
    """Runs calls on a batcher, large ones piece by piece.

    Args:
        batcher: The batcher.
        pace: The size of pieces.
        heavy: A further batcher for rows that take far longer than others and cannot be cut.
    """

    def __init__(self, batcher: Batcher, pace: Pace, heavy: Batcher | None = None) -> None:
        self._batcher, self._pace, self._heavy = batcher, pace, heavy

    async def run(self, job: Job) -> Result:
        """Wait until all rows of a call are worked on, and return the result.

        Raises:
            CallError: A piece could not be worked on; the rows of the whole call are named.
        """
        if job.key is None:
            whole: Result = await self._batcher.run(job)
            return whole
        done: list[Result] = []
        start = 0
        while start < job.rows:
            end, size = self._pace.next_piece(job.inputs, start, job.rows)
            piece = job if (start, end) == (0, job.rows) else _cut(job, start, end, done)
            is_heavy = end - start == 1 and self._pace.is_heavy(size)
            batcher = self._heavy if is_heavy and self._heavy is not None else self._batcher
            submitted = monotonic()
            try:
                result: Result = await batcher.run(piece)
            except CallError as error:
                raise _moved(error, start) from None
            if job.rows > 1 or is_heavy:
                self._pace.observe_piece(end - start, size, result.compute_s)
            if piece is not job:  # it counts from the call's arrival, so as not to be delayed
                job.queue_s += piece.arrived + piece.queue_s - submitted
            done.append(result)
            start = end
            if start < job.rows and job.deadline <= monotonic():
                raise ExpiredError(f"the deadline passed after {start} of {job.rows} rows")
        return done[0] if len(done) == 1 else _whole(done)


def _cut(job: Job, start: int, end: int, done: list[Result]) -> Job:
    inputs: dict[str, Column] = {name: column[start:end] for name, column in job.inputs.items()}
    on_part = job.on_part
    if on_part is not None:
        on_part = partial(_pass_on, job, [result.outputs for result in done])
    return Job(
        inputs,
        end - start,
        key=job.key,
        client=job.client,
        deadline=job.deadline,
        on_part=on_part,
        piece=len(done),
        arrived=job.arrived,
    )


def _pass_on(job: Job, done: list[Outputs], part: Outputs) -> None:
    """Send the pieces so far and a part of the next one, the other rows blank."""
    assert job.on_part is not None  # noqa: S101 - set with the piece's own function
    outputs = {}
    for name, array in part.items():
        known = np.concatenate([*(some[name] for some in done), array])
        blank = np.full(
            (job.rows - len(known), *known.shape[1:]), _BLANK.get(known.dtype.kind, 0), known.dtype
        )
        outputs[name] = np.concatenate([known, blank])
    job.on_part(outputs)


def _moved(error: CallError, start: int) -> CallError:
    """Return an error of a piece with the rows' numbers in the call."""
    if not (start and error.reasons):
        return error
    reasons = {start + row: why for row, why in error.reasons.items()}
    if isinstance(error, RefusedRowsError):
        return RefusedRowsError(reasons)
    error.reasons = reasons
    return error


def _whole(done: list[Result]) -> Result:
    first = done[0].outputs
    outputs: dict[str, Array] = {
        name: np.concatenate([result.outputs[name] for result in done]) for name in first
    }
    return Result(outputs, sum(result.compute_s for result in done))
