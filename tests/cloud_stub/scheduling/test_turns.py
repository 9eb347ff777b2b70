"""Turns, limits and deadlines of the serving process, as its callers see them."""

from __future__ import annotations

import time

import grpc
import pytest
from tools.callers import (
    Caller,
    answer_of,
    callers,
    labels_of,
    order,
    picture,
    pictures_request,
    pushback_ms,
    refusal,
    wait_until,
)
from tools.faulty_graphs import ANSWER

pytestmark = [pytest.mark.slow, pytest.mark.once]

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture
def work(moody):
    """Return an order that takes half a second."""
    return moody.work(0.5)


def test_a_flood_on_one_connection_starves_no_other(callers_of, moody):
    answered = []
    with callers_of("flooded", 2) as (flooding, quiet):
        quiet.is_server_ready()
        flood = [flooding.order(moody.work(0.03)) for _ in range(200)]
        flooding.is_server_ready()
        for call in flood:
            call.add_done_callback(answered.append)
        for n in range(3):
            before = len(answered)
            assert quiet.numbers((ANSWER, n)) == [n]
            # The batch at work, the one with the call in it, and answers that are noticed late.
            assert len(answered) - before <= 4 * 8
        for call in flood:
            call.result()


def test_a_full_queue_refuses_the_client_that_fills_it_and_names_a_pause(callers_of, work):
    with callers_of("short-queue", 2) as (flooding, quiet):
        first = flooding.busy(work)
        flood = [flooding.order((ANSWER, n)) for n in range(5)]
        code, details = refusal(flood.pop())
        assert (code, details) == (FULL, "4 calls are waiting already: try again later")
        late = quiet.order((ANSWER, 9))
        newest = flood.pop()
        assert refusal(newest)[0] == FULL
        assert 0 < pushback_ms(newest) <= 5000
        assert not late.done()
        first.result()
        assert [answer_of(call.result()) for call in [*flood, late]] == [[0], [1], [2], [9]]


def test_grpc_itself_retries_a_refused_call(caller_of, work):
    config = (
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, '
        '"initialBackoff": "60s", "maxBackoff": "60s", "backoffMultiplier": 1, '
        '"retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}'
    )
    with (
        caller_of("one-by-one") as flooding,
        caller_of("one-by-one", ("grpc.service_config", config)) as retrying,
    ):
        for _ in range(2):  # so that the server knows how long the model takes
            flooding.busy(work).result()
        first = flooding.busy(work)
        waits = flooding.order((ANSWER, 1))
        flooding.is_server_ready()
        # Without the server's pause the next attempt would follow after about a minute.
        assert answer_of(retrying.order((ANSWER, 2), timeout=30).result()) == [2]
        first.result()
        assert answer_of(waits.result()) == [1]


def test_a_call_that_can_never_be_accepted_is_not_to_be_retried(bundle, launch):
    running = launch(
        "--bundle", str(bundle), "--port", "0", "--max-message-mib", "1", "--max-memory-mib", "1"
    )
    with Caller(running.address) as caller:
        call = caller.future(pictures_request(pictures=[picture(0, 1024, mode="1")]))
        code, details = refusal(call)
        assert (code, pushback_ms(call)) == (FULL, -1), details  # 3 MiB of RGB
        assert labels_of(caller.future(pictures_request(pictures=[picture(0, 4)]))) == [b"dark"]


def test_callers_that_give_up_in_the_queue_cost_the_model_nothing(caller_of, work):
    with caller_of("impatient-callers") as caller:
        first = caller.busy(work)
        expired = [caller.order((ANSWER, n), timeout=0.2) for n in range(5)]
        cancelled = [caller.order((ANSWER, n)) for n in range(5)]
        caller.is_server_ready()
        for call in cancelled:
            call.cancel()
        assert {refusal(call)[0] for call in expired} == {EXPIRED}
        first.result()
        assert caller.numbers((ANSWER, 7)) == [7]
        wait_until(lambda: caller.statistics().inference_stats.fail.count == 10)
        statistics = caller.statistics()
        assert (statistics.execution_count, statistics.inference_count) == (2, 2)


def test_callers_that_leave_while_the_model_works_do_not_affect_the_server(caller_of, moody):
    with caller_of("leaving-callers") as caller:
        for _ in range(5):
            caller.busy(moody.work(0.1)).cancel()
            assert caller.numbers((ANSWER, 7)) == [7]
        wait_until(lambda: caller.statistics().inference_stats.fail.count == 5)


def test_the_calls_of_a_broken_connection_end(callers_of, work):
    with callers_of("broken-connection", 2) as (breaking, staying):
        # Calls of a connection that is still being made would be overtaken by others.
        breaking.is_server_ready()
        first = staying.busy(work)
        calls = [breaking.order((ANSWER, n)) for n in range(5)]
        for _ in range(3):
            breaking.is_server_ready()
        breaking.close()
        assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
        first.result()
        # A call whose message was not read yet is in no statistics.
        wait_until(lambda: staying.statistics().inference_stats.fail.count >= 1)
        assert staying.statistics().execution_count == 1
        first = staying.busy(work)
        more = [staying.order((ANSWER, n)) for n in range(5)]
        assert [answer_of(call.result()) for call in more] == [[n] for n in range(5)]
        first.result()


def test_a_delay_collects_calls(caller_of):
    with caller_of("delayed") as caller:
        begin = time.monotonic()
        calls = [caller.order((ANSWER, n)) for n in range(2)]
        time.sleep(0.2)
        calls.append(caller.order((ANSWER, 2)))
        assert [answer_of(call.result()) for call in calls] == [[0], [1], [2]]
        assert time.monotonic() - begin >= 1
        assert caller.batch_sizes() == {3: 1}


def test_a_full_batch_does_not_wait(caller_of):
    with caller_of("delayed-when-not-full") as caller:
        calls = [caller.order((ANSWER, n), timeout=30) for n in range(2)]
        assert [answer_of(call.result()) for call in calls] == [[0], [1]]


def test_a_batch_is_limited_in_rows_and_a_larger_call_is_cut(caller_of, work):
    with caller_of("small-batches") as caller:
        first = caller.busy(work)  # a call without a reference would be cancelled
        calls = [caller.order((ANSWER, n), (ANSWER, n)) for n in range(6)]
        calls.append(caller.order(*[(ANSWER, 6)] * 100))
        first.result()
        assert [answer_of(call.result()) for call in calls] == [
            *([n, n] for n in range(6)),
            [6] * 100,
        ]
        sizes = caller.batch_sizes()
        assert sum(rows * count for rows, count in sizes.items()) == 1 + 12 + 100
        assert max(sizes) == 4


def test_pictures_of_different_sizes_keep_their_own_answers(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0", "--max-delay-ms", "500")
    mixed = [picture(255, 3), picture(0, 9), picture(255, 3)]
    requests = [
        pictures_request(255, 0, side=4),
        pictures_request(0, 0, 255, side=6),
        pictures_request(0, side=4),
        pictures_request(pictures=mixed),
        pictures_request(255, 255, side=6),
        pictures_request(pictures=[picture(0, 2), picture(255, 9)]),
    ]
    with callers(running.address, len(requests)) as several:
        for caller in several:
            caller.is_server_ready()
        calls = [caller.future(request) for caller, request in zip(several, requests, strict=True)]
        dark, bright = b"dark", b"bright"
        assert [labels_of(call) for call in calls] == [
            [bright, dark],
            [dark, dark, bright],
            [dark],
            [bright, dark, bright],
            [bright, bright],
            [dark, bright],
        ]
        # Arrays of 4 x 4 together, of 6 x 6 together, and files of any sizes together.
        assert several[0].batch_sizes() == {3: 1, 5: 2}


def test_the_memory_of_calls_is_limited_and_free_again_after_them(launch_moody, moody):
    running = launch_moody(
        *("--max-message-mib", "8", "--max-memory-mib", "16"),
        *("--max-rows", "400000", "--max-batch", "100000"),
    )
    large = order(*[(ANSWER, 1)] * (6 << 16))  # 6 MiB
    with Caller(running.address) as caller:

        def is_accepted():
            return caller.future(large).exception() is None

        for end in ("result", "cancel"):
            first = caller.busy(moody.work(1))
            calls = [caller.future(large) for _ in range(3)]
            wait_until(lambda: any(call.done() for call in calls))  # noqa: B023 - in this round
            (refused,) = (call for call in calls if call.done())
            code, details = refusal(refused)
            assert (code, "exceed its limit of 16" in details) == (FULL, True), details
            assert pushback_ms(refused) > 0
            for call in calls:
                if call is not refused:
                    getattr(call, end)()
            wait_until(is_accepted)
            first.result()
