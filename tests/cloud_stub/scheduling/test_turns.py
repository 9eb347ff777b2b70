"""Turns, bounds and deadlines of the serving process, as its callers see them."""

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

pytestmark = pytest.mark.slow

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture
def busy(moody):
    """Return a call that keeps the only worker busy while others are sent."""

    def start(caller, seconds=1.0):
        call = caller.future(order(moody.work(seconds)))
        # The next call is behind it: the server takes a connection's calls in their order.
        caller.is_server_ready()
        return call

    return start


def batch_sizes(caller):
    return {one.batch_size: one.compute_infer.count for one in caller.statistics().batch_stats}


def test_a_flood_of_one_connection_starves_no_other(launch_moody, moody):
    running = launch_moody("--max-batch", "8", "--max-queue", "300")
    flood_answered = []
    with callers(running.address, 2) as (flooding, quiet):
        quiet.is_server_ready()
        flood = [flooding.future(order(moody.work(0.05))) for _ in range(200)]
        flooding.is_server_ready()
        for call in flood:
            call.add_done_callback(flood_answered.append)
        for n in range(3):
            before = len(flood_answered)
            assert quiet.numbers((ANSWER, n)) == [n]
            # The batch at work, the one with the call in it, and what is told late.
            assert len(flood_answered) - before <= 4 * 8
        for call in flood:
            call.result()


def test_a_full_queue_refuses_who_fills_it_and_names_a_time(launch_moody, busy):
    running = launch_moody("--max-queue", "4")
    with callers(running.address, 2) as (flooding, quiet):
        first = busy(flooding)
        flood = [flooding.future(order((ANSWER, n))) for n in range(5)]
        code, details = refusal(flood.pop())
        assert (code, details) == (FULL, "4 calls wait already: try again later")
        late = quiet.future(order((ANSWER, 9)))
        newest = flood.pop()
        assert refusal(newest)[0] == FULL
        assert 0 < pushback_ms(newest) <= 5000
        assert not late.done()
        first.result()
        assert [answer_of(call.result()) for call in [*flood, late]] == [[0], [1], [2], [9]]


def test_a_refused_call_is_tried_again_by_grpc_itself(launch_moody, busy):
    running = launch_moody("--max-queue", "1", "--max-batch", "1")
    config = (
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, '
        '"initialBackoff": "60s", "maxBackoff": "60s", "backoffMultiplier": 1, '
        '"retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}'
    )
    with (
        Caller(running.address) as flooding,
        Caller(running.address, ("grpc.service_config", config)) as trying,
    ):
        for _ in range(2):  # so that the server knows how long the model takes
            busy(flooding).result()
        first = busy(flooding)
        waits = flooding.future(order((ANSWER, 1)))
        flooding.is_server_ready()
        # Without the server's word the next attempt would come after about a minute.
        assert answer_of(trying.future(order((ANSWER, 2)), 30).result()) == [2]
        first.result()
        assert answer_of(waits.result()) == [1]


def test_what_can_never_be_taken_says_not_to_try_again(bundle, launch):
    running = launch(
        "--bundle", str(bundle), "--port", "0", "--max-message-mib", "1", "--max-memory-mib", "1"
    )
    with Caller(running.address) as caller:
        for side in (1024, 20_000):  # 3 MiB of RGB, and more pixels than any call may have
            call = caller.future(pictures_request(pictures=[picture(0, side, mode="1")]))
            code, details = refusal(call)
            assert (code, pushback_ms(call)) == (FULL, -1), details
        assert labels_of(caller.future(pictures_request(pictures=[picture(0, 4)]))) == [b"dark"]


def test_who_gave_up_in_the_queue_costs_the_model_nothing(launch_moody, busy):
    running = launch_moody()
    with Caller(running.address) as caller:
        first = busy(caller)
        expired = [caller.future(order((ANSWER, n)), 0.2) for n in range(5)]
        cancelled = [caller.future(order((ANSWER, n))) for n in range(5)]
        caller.is_server_ready()
        for call in cancelled:
            call.cancel()
        assert {refusal(call)[0] for call in expired} == {EXPIRED}
        first.result()
        assert caller.numbers((ANSWER, 7)) == [7]
        wait_until(lambda: caller.statistics().inference_stats.fail.count == 10)
        statistics = caller.statistics()
        assert (statistics.execution_count, statistics.inference_count) == (2, 2)


def test_who_leaves_while_the_model_works_leaves_the_server_as_it_was(launch_moody, busy):
    running = launch_moody("--max-queue", "2")
    with Caller(running.address) as caller:
        for _ in range(5):
            call = busy(caller, 0.1)
            call.cancel()
            assert caller.numbers((ANSWER, 7)) == [7]
        wait_until(lambda: caller.statistics().inference_stats.fail.count == 5)


def test_a_connection_that_breaks_takes_its_calls_along(launch_moody, busy):
    running = launch_moody("--max-queue", "5")
    with callers(running.address, 2) as (breaking, staying):
        breaking.is_server_ready()  # calls of a connection that is still to be made overtake others
        first = busy(staying)
        calls = [breaking.future(order((ANSWER, n))) for n in range(5)]
        for _ in range(3):
            breaking.is_server_ready()
        breaking.close()
        assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
        first.result()
        # A call whose message was not read yet is in no figure.
        wait_until(lambda: staying.statistics().inference_stats.fail.count >= 1)
        assert staying.statistics().execution_count == 1
        first = busy(staying)
        more = [staying.future(order((ANSWER, n))) for n in range(5)]
        assert [answer_of(call.result()) for call in more] == [[n] for n in range(5)]
        first.result()


def test_a_delay_collects_calls(launch_moody):
    running = launch_moody("--max-delay-ms", "3000")
    with Caller(running.address) as caller:
        begin = time.monotonic()
        calls = [caller.future(order((ANSWER, n))) for n in range(2)]
        time.sleep(0.3)
        calls.append(caller.future(order((ANSWER, 2))))
        assert [answer_of(call.result()) for call in calls] == [[0], [1], [2]]
        assert time.monotonic() - begin >= 3
        assert batch_sizes(caller) == {3: 1}


def test_a_full_batch_waits_for_no_delay(launch_moody):
    running = launch_moody("--max-delay-ms", "50000", "--max-batch", "2")
    with Caller(running.address) as caller:
        calls = [caller.future(order((ANSWER, n)), 30) for n in range(2)]
        assert [answer_of(call.result()) for call in calls] == [[0], [1]]


def test_a_batch_has_as_many_rows_as_allowed_and_a_single_call_may_have_more(launch_moody, busy):
    running = launch_moody("--max-batch", "4")
    with Caller(running.address) as caller:
        first = busy(caller)  # one that nobody holds is cancelled
        calls = [caller.future(order((ANSWER, n), (ANSWER, n))) for n in range(6)]
        calls.append(caller.future(order(*[(ANSWER, 6)] * 100)))
        first.result()
        assert [answer_of(call.result()) for call in calls] == [
            *([n, n] for n in range(6)),
            [6] * 100,
        ]
        assert batch_sizes(caller) == {1: 1, 4: 3, 100: 1}


def test_pictures_of_different_sizes_keep_their_own_answers(slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0")
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
        first = several[0].future(pictures_request(0))
        several[0].is_server_ready()
        calls = [caller.future(request) for caller, request in zip(several, requests, strict=True)]
        assert labels_of(first) == [b"dark"]
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
        assert batch_sizes(several[0]) == {1: 1, 3: 1, 5: 2}


def test_memory_that_calls_hold_is_bounded_and_free_again_after_them(launch_moody, busy):
    running = launch_moody("--max-message-mib", "8", "--max-memory-mib", "16")
    large = order(*[(ANSWER, 1)] * (6 << 16))  # 6 MiB
    with Caller(running.address) as caller:

        def is_taken():
            return caller.future(large).exception() is None

        for ends in ("result", "cancel"):
            first = busy(caller, 2)
            calls = [caller.future(large) for _ in range(3)]
            wait_until(lambda: any(call.done() for call in calls))  # noqa: B023 - in this round
            (refused,) = (call for call in calls if call.done())
            code, details = refusal(refused)
            assert (code, "over its limit of 16" in details) == (FULL, True), details
            assert pushback_ms(refused) > 0
            for call in calls:
                if call is not refused:
                    getattr(call, ends)()
            wait_until(is_taken)
            first.result()
