"""The batcher on a real event loop with real worker threads."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter

import pytest
from tools.batching import PATIENCE_S, Doubling, batcher_of, is_idle, occupied, run, submit, until

from cloud_stub.errors import (
    ExpiredError,
    ModelFailureError,
    OverloadError,
    UnavailableError,
)
from cloud_stub.scheduling.batcher import SPARE_WORKERS, Limits
from edge_runtime.errors import SettingError

pytestmark = pytest.mark.once


def test_calls_that_queued_while_the_worker_was_busy_are_worked_on_together():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=4)
        first = await occupied(batcher, work)
        calls = [submit(batcher, n) for n in range(6)]
        await until(lambda: batcher.waiting == 6)
        assert batcher.in_flight == 1
        work.gate.set()
        assert await asyncio.gather(*first, *calls) == [-2, 0, 2, 4, 6, 8, 10]
        assert work.batches == [[-1], [0, 1, 2, 3], [4, 5]]
        assert is_idle(batcher)

    run(scenario)


def test_a_flood_keeps_no_other_client_waiting_for_more_than_a_batch():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=4, max_queue=300)
        await occupied(batcher, work)
        flood = [submit(batcher, n, client="flood") for n in range(200)]
        single = submit(batcher, 1000, client="quiet")
        await until(lambda: batcher.waiting == 201)
        work.gate.set()
        assert await single == 2000
        await asyncio.gather(*flood)
        assert 1000 in work.batches[1]

    run(scenario)


def test_jobs_of_different_keys_are_never_in_one_batch():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=8)
        await occupied(batcher, work)
        calls = [submit(batcher, n, key=n % 2, client=str(n)) for n in range(6)]
        alone = [submit(batcher, n, key=None) for n in (6, 7)]
        await until(lambda: batcher.waiting == 8)
        work.gate.set()
        assert await asyncio.gather(*calls, *alone) == [2 * n for n in range(8)]
        assert sorted(work.batches[1:]) == [[0, 2, 4], [1, 3, 5], [6], [7]]

    run(scenario)


def test_a_full_queue_refuses_and_says_when_to_try_again():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_queue=4)
        await occupied(batcher, work)
        calls = [submit(batcher, n) for n in range(5)]
        with pytest.raises(OverloadError, match="4 calls are waiting already") as caught:
            await calls[4]
        assert 0 < caught.value.pushback_s <= 5
        other = submit(batcher, 5, client="b")
        with pytest.raises(OverloadError):
            await calls[3]  # the newest call of the client that has far more
        work.gate.set()
        assert await asyncio.gather(*calls[:3], other) == [0, 2, 4, 10]
        assert is_idle(batcher)

    run(scenario)


def test_a_call_that_expired_in_the_queue_is_never_worked_on():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work)
        await occupied(batcher, work)
        late = submit(batcher, 1, deadline=time.monotonic() + 0.01)
        call = submit(batcher, 2)
        await asyncio.sleep(0.05)
        work.gate.set()
        with pytest.raises(ExpiredError, match="in the queue"):
            await late
        assert await call == 4
        assert work.batches == [[-1], [2]]

    run(scenario)


def test_a_caller_that_leaves_the_queue_leaves_nothing_behind():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work)
        (first,) = await occupied(batcher, work)
        gone = [submit(batcher, n, rows=3) for n in range(5)]
        await until(lambda: batcher.waiting == 5)
        for call in gone:
            call.cancel()
        await asyncio.wait(gone)
        assert (batcher.waiting, batcher._queue.rows) == (0, 0)
        work.gate.set()
        await first
        assert work.batches == [[-1]]

    run(scenario)


def test_a_caller_that_leaves_in_the_round_of_its_turn_is_not_worked_on():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work)
        (first,) = await occupied(batcher, work)
        gone, stays = submit(batcher, 1), submit(batcher, 2)
        await until(lambda: batcher.waiting == 2)
        # The worker has finished; its report and the cancellation both wait for the loop.
        work.gate.set()
        time.sleep(0.1)  # noqa: ASYNC251 - the loop is to see both in one round
        gone.cancel()
        assert await asyncio.gather(first, stays) == [-2, 4]
        assert work.batches == [[-1], [2]]
        assert is_idle(batcher)

    run(scenario)


def test_a_caller_that_leaves_while_its_batch_is_worked_on_affects_no_other():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work)
        await occupied(batcher, work)
        gone, stays = submit(batcher, 1), submit(batcher, 2)
        await until(lambda: batcher.waiting == 2)
        work.gate.set()
        await until(lambda: len(work.batches) > 1)
        gone.cancel()
        assert await stays == 4
        assert is_idle(batcher)

    run(scenario)


def test_a_delay_collects_and_a_full_batch_does_not_wait_for_it():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=3, max_delay_s=PATIENCE_S)
        calls = []
        for n in range(3):
            calls.append(submit(batcher, n))
            if n < 2:
                await asyncio.sleep(0.02)
                assert not work.batches
        assert await asyncio.gather(*calls) == [0, 2, 4]
        assert work.batches == [[0, 1, 2]]

    run(scenario)


def test_a_delay_ends():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=3, max_delay_s=0.2)
        begin = time.monotonic()
        first = submit(batcher, 1)
        await asyncio.sleep(0.05)
        assert await asyncio.gather(first, submit(batcher, 2)) == [2, 4]
        assert time.monotonic() - begin >= 0.2
        assert work.batches == [[1, 2]]

    run(scenario)


def test_a_call_with_more_rows_than_a_batch_runs_alone():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=4)
        await occupied(batcher, work)
        calls = [submit(batcher, 1), submit(batcher, 2, rows=100), submit(batcher, 3)]
        await until(lambda: batcher.waiting == 3)
        work.gate.set()
        assert await asyncio.gather(*calls) == [2, 4, 6]
        assert work.batches == [[-1], [1], [2], [3]]

    run(scenario)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), MemoryError("no room")])
def test_any_exception_fails_its_calls_with_a_message(raised, caplog):
    async def scenario():
        def work(jobs):
            if jobs[0].inputs["number"] == 1:
                raise raised
            return [job.inputs["number"] for job in jobs]

        batcher = batcher_of(work)
        with pytest.raises(ModelFailureError, match=type(raised).__name__):
            await submit(batcher, 1)
        assert await submit(batcher, 2) == 2
        assert is_idle(batcher)

    run(scenario)
    assert "Traceback" in caplog.text


def test_only_batches_with_an_answer_are_recorded():
    async def scenario():
        recorded = []

        def work(jobs):
            return [ModelFailureError("bad") if job.inputs["number"] < 0 else 1 for job in jobs]

        batcher = batcher_of(
            work, max_delay_s=5, max_batch=4, record=lambda *found: recorded.append(found)
        )
        calls = [submit(batcher, number, rows=2) for number in (-1, 1)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [ModelFailureError, int]
        with pytest.raises(ModelFailureError):
            await submit(batcher, -1, rows=4)
        assert [rows for rows, _ in recorded] == [4]

    run(scenario)


def test_stalled_workers_are_replaced_until_none_is_left_and_may_come_back():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=1, stall_s=0.05)
        work.gate.clear()
        for count in range(SPARE_WORKERS + 1):
            assert not batcher.is_stuck
            with pytest.raises(ModelFailureError, match=r"within 0\.05 s"):
                await submit(batcher, count)
            assert (batcher.hanging, batcher.in_flight) == (count + 1, 0)
        assert batcher.is_stuck
        with pytest.raises(UnavailableError, match="hangs"):
            await submit(batcher, 9)
        work.gate.set()
        await until(lambda: not batcher.hanging)
        assert await submit(batcher, 4) == 8
        assert is_idle(batcher)

    run(scenario)


def test_one_timer_watches_all_batches():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, max_batch=1, stall_s=0.05)
        work.gate.clear()
        calls = [submit(batcher, n) for n in range(SPARE_WORKERS + 1)]
        for call in calls[:-1]:  # giving up one starts the next
            with pytest.raises(ModelFailureError):
                await call
        timers = asyncio.get_running_loop()._scheduled
        assert [one.cancelled() for one in timers if "_watch" in repr(one)] == [False]
        work.gate.set()
        await asyncio.wait(calls)
        await until(lambda: is_idle(batcher))

    run(scenario)


def test_calls_that_wait_or_run_when_the_batcher_closes_are_refused():
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work)
        calls = [*await occupied(batcher, work), submit(batcher, 1)]
        await until(lambda: batcher.waiting == 1)
        batcher.close()
        for call in [*calls, submit(batcher, 2)]:
            with pytest.raises(UnavailableError, match="shutting down"):
                await call
        assert batcher.hanging == 1  # the process must not wait for it
        work.gate.set()
        await until(lambda: is_idle(batcher))

    run(scenario)


@pytest.fixture
def no_more_threads():
    """Return a function after which no thread can be started, because none can have its stack."""
    before = threading.stack_size()

    def take():
        try:
            threading.stack_size(1 << 46)
        except ValueError:
            pytest.skip("this system knows no stack that is too large")

    yield take
    threading.stack_size(before)


def test_without_a_thread_calls_are_refused_and_the_counts_stay_right(no_more_threads):
    async def scenario():
        batcher = batcher_of(Doubling())
        no_more_threads()
        for _ in range(SPARE_WORKERS + 2):
            with pytest.raises(OverloadError, match="no memory is left") as refusal:
                await submit(batcher, 1)
            assert refusal.value.pushback_s
        assert is_idle(batcher)
        threading.stack_size(0)
        assert await submit(batcher, 1) == 2

    run(scenario)


def test_if_no_thread_can_be_added_the_existing_ones_continue(no_more_threads):
    async def scenario():
        work = Doubling()
        batcher = batcher_of(work, workers=3, max_batch=1)
        assert await submit(batcher, 1) == 2
        no_more_threads()
        work.gate.clear()
        calls = [submit(batcher, n) for n in range(3)]
        await until(lambda: batcher.in_flight == 3)
        work.gate.set()
        assert await asyncio.gather(*calls) == [0, 2, 4]
        assert is_idle(batcher)

    run(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_in_a_storm_no_call_is_lost_and_the_counts_stay_right(workers):
    """Callers arrive, time out and leave at random; every call ends as it should."""
    draw = random.Random(workers)

    def work(jobs):
        time.sleep(draw.choice([0, 0, 0.001]))
        if draw.random() < 0.05:
            raise ValueError
        return [2 * job.inputs["number"] for job in jobs]

    async def call(batcher, number):
        await asyncio.sleep(draw.random())
        deadline = time.monotonic() + draw.choice([0.001, 0.01, PATIENCE_S])
        client, rows = draw.choice("abc"), draw.choice([1, 1, 2, 9])
        key = draw.choice(["x", "y", None])
        task = submit(batcher, number, client=client, rows=rows, key=key, deadline=deadline)
        if draw.random() < 0.3:
            asyncio.get_running_loop().call_later(draw.random() / 50, task.cancel)
        done, _ = await asyncio.wait([task], timeout=PATIENCE_S)
        assert done, "a call was never answered"
        if task.cancelled():
            return "cancelled"
        error = task.exception()
        if error is not None:
            return type(error).__name__
        assert task.result() == 2 * number
        return "answered"

    async def scenario():
        batcher = batcher_of(work, workers=workers, max_batch=4, max_queue=5, max_delay_s=0.002)
        ended = Counter(await asyncio.gather(*(call(batcher, n) for n in range(2000))))
        await until(lambda: is_idle(batcher))
        assert not batcher._running
        known = {"answered", "cancelled", "ExpiredError", "OverloadError", "ModelFailureError"}
        assert ended.keys() <= known
        assert ended["answered"] > 0

    run(scenario)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_batch": 0},
        {"max_queue": 0},
        {"max_delay_s": -1},
        {"max_delay_s": 2, "stall_s": 1},
        {"stall_s": 0},
    ],
)
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(SettingError, match="expected"):
        Limits(**limits)
