"""A model that fails, lies or hangs, and callers beside it who hardly notice."""

from __future__ import annotations

import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tools.callers import PATIENCE_S, Caller, answer_of, order, refusal, wait_until
from tools.faulty_graphs import ANSWER, LOSE_ROW, NOT_A_NUMBER, RAISE

from edge_runtime.wire import messages as pb

pytestmark = pytest.mark.slow

INTERNAL = grpc.StatusCode.INTERNAL
LONG_S = 600.0
"""What a hanging model works on; no test waits for it."""


@pytest.fixture
def busy(moody):
    """Return a call that keeps the only worker busy while others are sent, and waits for them."""

    def start(caller, seconds=1.0):
        call = caller.future(order(moody.work(seconds)))
        # The next call is behind it: the server takes a connection's calls in their order.
        caller.is_server_ready()
        return call

    return start


@pytest.fixture
def running(launch_moody):
    return launch_moody("--max-batch", "16")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ((RAISE, 0), "the model failed: "),
        ((NOT_A_NUMBER, 0), "the model failed: its answer is not a finite number"),
        ((LOSE_ROW, 0), "the model failed: expected its output 'answer' as [2], got [1]"),
    ],
)
def test_only_the_call_that_the_model_fails_on_fails(running, busy, bad, why):
    with Caller(running.address) as caller:
        first = busy(caller)
        calls = [
            caller.future(order((ANSWER, 10 * n), bad if n == 3 else (ANSWER, 10 * n + 1)))
            for n in range(6)
        ]
        code, details = refusal(calls.pop(3))
        assert (code, why in details) == (INTERNAL, True), details
        assert [answer_of(call.result()) for call in calls] == [
            [10 * n, 10 * n + 1] for n in (0, 1, 2, 4, 5)
        ]
        first.result()
        assert caller.numbers((ANSWER, 7)) == [7]
        statistics = caller.statistics()
        sizes = {batch.batch_size: batch.compute_infer.count for batch in statistics.batch_stats}
    assert sizes == {1: 2, 12: 1}  # the calls were together in one batch
    assert statistics.inference_stats.fail.count == 1
    assert statistics.inference_stats.success.count == 7


def test_a_batch_is_counted_though_its_first_call_failed(running, busy):
    with Caller(running.address) as caller:
        first = busy(caller)  # one that nobody holds is cancelled
        bad = caller.future(order((NOT_A_NUMBER, 0)))
        good = caller.future(order((ANSWER, 5)))
        first.result()
        assert refusal(bad)[0] == INTERNAL
        assert answer_of(good.result()) == [5]
        assert caller.statistics().execution_count == 2


def test_a_call_that_outlives_its_deadline_leaves_the_next_one_be(running, moody):
    with Caller(running.address) as caller:
        slow = caller.future(order(moody.work(2)), timeout=0.3)
        assert refusal(slow)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        assert caller.numbers((ANSWER, 7)) == [7]
        assert caller.statistics().inference_stats.fail.count == 1


def test_a_batch_that_stalls_is_given_up_and_another_worker_goes_on(launch_moody, moody, busy):
    running = launch_moody("--stall", "1")
    with Caller(running.address) as caller:
        hanging = caller.future(order(moody.work(LONG_S)))
        caller.is_server_ready()
        begin = time.monotonic()
        behind = caller.future(order((ANSWER, 7)))
        code, details = refusal(hanging)
        assert (code, details) == (INTERNAL, "the model did not answer within 1 s")
        assert answer_of(behind.result()) == [7]
        assert time.monotonic() - begin < LONG_S / 10
        assert caller.is_model_ready()
        assert running.stop() == 0


def test_a_model_that_hangs_too_often_says_so_and_the_process_still_ends(launch_moody, moody):
    running = launch_moody("--stall", "0.5", "--grace", "5")
    with Caller(running.address) as caller:
        for _ in range(4):
            assert refusal(caller.future(order(moody.work(LONG_S))))[0] == INTERNAL
        code, details = refusal(caller.future(order((ANSWER, 7))))
        assert (code, "hangs" in details) == (grpc.StatusCode.UNAVAILABLE, True)
        assert not caller.is_model_ready()
        assert not caller.is_server_ready()
        health = health_pb2_grpc.HealthStub(caller.channel)
        for service in ("", "large"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), PATIENCE_S)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        index = caller.call(
            "RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse
        )
        assert [(one.state, one.reason) for one in index.models] == [
            ("UNAVAILABLE", "its workers hang")
        ]
    assert running.stop(within_s=5 + PATIENCE_S) == 0


def test_calls_that_wait_when_the_last_worker_hangs_are_told_at_once(launch_moody, moody):
    running = launch_moody("--stall", "2", "--max-batch", "1")
    with Caller(running.address) as caller:
        hanging = [caller.future(order(moody.work(LONG_S))) for _ in range(4)]
        caller.is_server_ready()
        waiting = [caller.future(order((ANSWER, n))) for n in range(5)]
        for call in hanging:
            assert refusal(call)[0] == INTERNAL
        assert {refusal(call) for call in waiting} == {
            (grpc.StatusCode.UNAVAILABLE, "the model hangs")
        }


def test_a_model_that_comes_back_is_ready_again(launch_moody, moody):
    running = launch_moody("--stall", "0.3", "--max-batch", "1")
    with Caller(running.address) as caller:
        calls = [caller.future(order(moody.work(3))) for _ in range(4)]
        assert {refusal(call)[0] for call in calls} == {INTERNAL}
        assert not caller.is_model_ready()
        wait_until(caller.is_model_ready)
        assert caller.numbers((ANSWER, 7)) == [7]


def test_a_model_that_hangs_does_not_outlive_the_grace(launch_moody, moody):
    # It has not stalled yet as far as the server knows: that takes a minute by default.
    running = launch_moody("--grace", "1")
    with Caller(running.address) as caller:
        hanging = caller.future(order(moody.work(LONG_S)))
        caller.is_server_ready()
        waiting = caller.future(order((ANSWER, 7)))
        assert running.stop(within_s=1 + PATIENCE_S) == 0
        for call in (hanging, waiting):
            assert refusal(call)[0] in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    wait_until(lambda: "stopped after" in "".join(running.errors))
    assert "Traceback" not in "".join(running.errors)
