"""Large calls take turns with the others, piece by piece."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import chain
from math import inf

import numpy as np
import pytest
from tools.batching import PATIENCE_S, batcher_of, run, until

from cloud_stub.errors import ExpiredError, ModelFailureError, OverloadError, RefusedRowsError
from cloud_stub.scheduling.pieces import Pace, Pieces
from cloud_stub.scheduling.queue import Job, Result

pytestmark = pytest.mark.once

ROWS = 1000
BATCH = 8


class Echo:
    """Work that returns numbers, each batch after a permission."""

    def __init__(self):
        self.may_continue = threading.Semaphore(0)
        self.batches = []
        self.refused = {}

    def __call__(self, jobs):
        numbers = [job.inputs["number"].tolist() for job in jobs]
        self.batches.append(list(chain(*numbers)))
        assert self.may_continue.acquire(timeout=PATIENCE_S)
        results = []
        for job, rows in zip(jobs, numbers, strict=True):
            kind = self.refused.get(rows[-1])
            if kind is RefusedRowsError:
                results.append(RefusedRowsError({len(rows) - 1: "odd"}))
            elif kind is not None:
                results.append(kind("odd", reasons={len(rows) - 1: "odd"}))
            else:
                outputs = {"number": job.inputs["number"], "score": np.ones(job.rows)}
                if job.on_part is not None:
                    job.on_part(outputs)
                results.append(Result(outputs, 1e-6))
        return results


def pieces_of(work, **limits):
    batcher = batcher_of(work, **{"max_batch": BATCH} | limits)
    return batcher, Pieces(batcher, Pace(BATCH))


def submit(pieces, numbers, *, client="a", deadline=inf, on_part=None):
    inputs = {"number": np.array(numbers)}
    job = Job(inputs, len(numbers), key="k", client=client, deadline=deadline, on_part=on_part)
    return asyncio.create_task(pieces.run(job))


@pytest.mark.parametrize("client", ["a", "b"], ids=["same connection", "another one"])
def test_another_call_is_answered_before_a_large_one_has_taken_three_pieces(client):
    async def scenario():
        work = Echo()
        batcher, pieces = pieces_of(work)
        large = submit(pieces, range(ROWS))
        await until(lambda: len(work.batches) == 1)
        small = submit(pieces, [-1], client=client)
        await until(lambda: batcher.waiting == 1)
        work.may_continue.release(3)
        assert (await small).outputs["number"].tolist() == [-1]
        assert sum(map(len, work.batches)) <= 4 * BATCH
        assert not large.done()
        work.may_continue.release(ROWS)
        assert (await large).outputs["number"].tolist() == list(range(ROWS))
        assert max(map(len, work.batches)) == BATCH

    run(scenario)


def test_large_calls_of_one_client_are_worked_on_one_after_the_other():
    async def scenario():
        work = Echo()
        batcher, pieces = pieces_of(work)
        first = submit(pieces, range(ROWS))
        await until(lambda: len(work.batches) == 1)
        second = submit(pieces, range(ROWS, 2 * ROWS))
        await until(lambda: batcher.waiting == 1)
        work.may_continue.release(2 * ROWS)
        await asyncio.gather(first, second)
        assert list(chain(*work.batches)) == list(range(2 * ROWS))

    run(scenario)


def test_a_call_that_is_begun_is_not_refused_by_a_full_queue():
    async def scenario():
        work = Echo()
        batcher, pieces = pieces_of(work, max_queue=2)
        large = submit(pieces, range(3 * BATCH))
        await until(lambda: len(work.batches) == 1)
        waiting = [submit(pieces, [-1 - n], client=f"{n}") for n in range(2)]
        await until(lambda: batcher.waiting == 2)
        refused = submit(pieces, [-9], client="9")
        with pytest.raises(OverloadError, match="2 calls are waiting"):
            await refused
        work.may_continue.release(ROWS)
        assert (await large).outputs["number"].tolist() == list(range(3 * BATCH))
        await asyncio.gather(*waiting)

    run(scenario)


def test_a_deadline_ends_a_call_between_two_pieces():
    async def scenario():
        work = Echo()
        _, pieces = pieces_of(work)
        large = submit(pieces, range(ROWS), deadline=time.monotonic() + 0.05)
        await until(lambda: len(work.batches) == 1)
        await asyncio.sleep(0.05)
        work.may_continue.release(ROWS)
        with pytest.raises(ExpiredError, match=f"of {ROWS} rows"):
            await large
        assert len(work.batches) == 1

    run(scenario)


def test_a_caller_that_leaves_ends_its_call_between_two_pieces():
    async def scenario():
        work = Echo()
        batcher, pieces = pieces_of(work)
        large = submit(pieces, range(ROWS))
        await until(lambda: len(work.batches) == 1)
        large.cancel()
        work.may_continue.release(ROWS)
        await until(lambda: not batcher.in_flight)
        await submit(pieces, [-1])
        assert len(work.batches) == 2

    run(scenario)


@pytest.mark.parametrize("kind", [RefusedRowsError, ModelFailureError])
def test_the_rows_of_an_error_are_those_of_the_call(kind):
    async def scenario():
        work = Echo()
        _, pieces = pieces_of(work)
        work.may_continue.release(ROWS)
        await submit(pieces, range(4))  # the pace is known: pieces of a batch follow
        work.refused = {15: kind, 19: kind}
        with pytest.raises(kind) as caught:
            await submit(pieces, range(20))
        assert caught.value.reasons in ({15: "odd"}, {19: "odd"})

    run(scenario)


def test_each_part_of_a_streamed_call_holds_all_of_its_rows():
    async def scenario():
        work, parts = Echo(), []
        _, pieces = pieces_of(work)
        work.may_continue.release(ROWS)
        await submit(pieces, range(10), on_part=parts.append)
        assert [len(part["score"]) for part in parts] == [10] * len(parts)
        assert len(parts) > 1
        assert parts[0]["number"].tolist()[:4] == [0, 1, 2, 3]
        assert np.isnan(parts[0]["score"][4:]).all()
        assert parts[-1]["number"].tolist() == list(range(10))

    run(scenario)


PICTURES = {"image": np.zeros((ROWS, 32, 32, 3), np.uint8)}


def learned(*, alone_s, row_s, max_batch=256):
    """Return the pace of a model after some pieces, and the rows of the next one."""
    pace, rows = Pace(max_batch), 0
    for _ in range(12):
        rows, size = pace.next_piece(PICTURES, 0, ROWS)
        pace.observe_piece(rows, size, alone_s + rows * row_s)
        pace.observe_batch(alone_s + row_s)
    return pace, rows


@pytest.mark.parametrize(
    ("alone_s", "row_s", "fewest", "most"),
    [
        (0, 1.0, 1, 1),  # a slow model: no second row
        (0, 1e-4, 18, 22),  # a fast one: two milliseconds
        (0, 1e-6, 256, 256),
        (0.1, 1e-4, 128, 256),  # a batch costs hardly more than a row, as on a GPU
    ],
)
def test_a_piece_takes_hardly_longer_than_the_shortest_batch(alone_s, row_s, fewest, most):
    assert fewest <= learned(alone_s=alone_s, row_s=row_s)[1] <= most


def test_large_rows_make_smaller_pieces():
    pace, rows = learned(alone_s=0, row_s=1e-4)
    big = [np.zeros((320, 320, 3), np.uint8)] * 3 + [np.zeros((8, 8, 3), np.uint8)] * ROWS
    assert pace.next_piece({"image": big}, 0, len(big))[0] == 1
    assert pace.next_piece({"image": big}, 3, len(big))[0] == 3 + rows
    assert pace.next_piece({"text": ["x" * 10**6] * 9}, 0, 9)[0] == 1


def test_large_rows_show_nothing_about_the_time_of_small_ones():
    pace = Pace(256)
    for _ in range(9):
        pace.observe_batch(1.0)
        pace.observe_piece(1, 2 << 20, 1.0)
    # By their bytes alone 256 tiny pictures would take no time.
    assert pace.next_piece({"image": np.zeros((ROWS, 8, 8, 3), np.uint8)}, 0, ROWS)[0] == 1


def test_a_large_row_is_heavy_until_its_time_is_known():
    pace, _ = learned(alone_s=0, row_s=1e-4)
    assert pace.is_heavy(3 << 20)
    pace.observe_piece(1, 3 << 20, 1e-3)
    assert not pace.is_heavy(3 << 20)
    assert not pace.is_heavy(1 << 20)
    assert pace.is_heavy(40 << 20)


def test_heavy_rows_run_beside_the_others():
    async def scenario():
        work, slow = Echo(), Echo()
        batcher = batcher_of(work, max_batch=BATCH)
        pieces = Pieces(batcher, Pace(BATCH), batcher_of(slow, max_batch=BATCH))
        heavy = Job(
            {"number": np.zeros(1), "picture": np.zeros((1, 3 << 20), np.uint8)},
            1,
            key="k",
            client="a",
        )
        call = asyncio.create_task(pieces.run(heavy))
        await until(lambda: len(slow.batches) == 1)
        work.may_continue.release(ROWS)
        await submit(pieces, range(20))
        assert not call.done()
        slow.may_continue.release()
        await call

    run(scenario)
