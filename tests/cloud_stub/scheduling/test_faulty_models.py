"""A model that fails, returns wrong answers or hangs, and the other calls of the server."""

from __future__ import annotations

import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tools.callers import PATIENCE_S, Caller, answer_of, refusal, wait_until
from tools.faulty_graphs import ANSWER, LOSE_ROW, NOT_A_NUMBER, RAISE

from edge_runtime.wire import messages as pb

pytestmark = [pytest.mark.slow, pytest.mark.once]

INTERNAL = grpc.StatusCode.INTERNAL
LONG_S = 600.0
"""Work of a hanging model; no test waits for it."""


@pytest.mark.parametrize(
    ("model", "bad", "why"),
    [
        ("fails-0", (RAISE, 0), "the model failed: "),
        ("fails-1", (NOT_A_NUMBER, 0), "the model failed: its answer is not a finite number"),
        (
            "fails-2",
            (LOSE_ROW, 0),
            "the model failed: expected its output 'answer' as [2], got [1]",
        ),
    ],
)
def test_only_the_call_that_the_model_fails_on_fails(caller_of, moody, model, bad, why):
    with caller_of(model) as caller:
        first = caller.busy(moody.work(0.5))
        calls = [
            caller.order((ANSWER, 10 * n), bad if n == 3 else (ANSWER, 10 * n + 1))
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
        assert caller.batch_sizes() == {1: 2, 12: 1}  # the calls were together in one batch
    assert statistics.inference_stats.fail.count == 1
    assert statistics.inference_stats.success.count == 7


def test_a_batch_counts_although_its_first_call_failed(caller_of, moody):
    with caller_of("fails-first") as caller:
        first = caller.busy(moody.work(0.5))  # a call without a reference would be cancelled
        bad = caller.order((NOT_A_NUMBER, 0))
        good = caller.order((ANSWER, 5))
        first.result()
        assert refusal(bad)[0] == INTERNAL
        assert answer_of(good.result()) == [5]
        assert caller.statistics().execution_count == 2


def test_a_call_past_its_deadline_does_not_affect_the_next_one(caller_of, moody):
    with caller_of("outlived") as caller:
        slow = caller.order(moody.work(1), timeout=0.3)
        assert refusal(slow)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        assert caller.numbers((ANSWER, 7)) == [7]
        assert caller.statistics().inference_stats.fail.count == 1


def test_a_batch_that_stalls_is_given_up_and_another_worker_takes_over(launch_moody, moody):
    running = launch_moody("--stall-s", "0.5")
    with Caller(running.address) as caller:
        hanging = caller.busy(moody.work(LONG_S))
        begin = time.monotonic()
        behind = caller.order((ANSWER, 7))
        code, details = refusal(hanging)
        assert (code, details) == (INTERNAL, "the model did not answer within 0.5 s")
        assert answer_of(behind.result()) == [7]
        assert time.monotonic() - begin < LONG_S / 10
        assert caller.is_model_ready()
        assert running.stop() == 0


def test_a_model_that_hangs_too_often_is_not_ready_and_the_process_still_ends(launch_moody, moody):
    running = launch_moody("--stall-s", "0.3", "--grace-s", "5")
    with Caller(running.address) as caller:
        for _ in range(4):
            assert refusal(caller.order(moody.work(LONG_S)))[0] == INTERNAL
        code, details = refusal(caller.order((ANSWER, 7)))
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


def test_waiting_calls_are_refused_at_once_when_the_last_worker_hangs(launch_moody, moody):
    running = launch_moody("--stall-s", "0.5", "--max-batch", "1")
    with Caller(running.address) as caller:
        hanging = [caller.order(moody.work(LONG_S)) for _ in range(4)]
        caller.is_server_ready()
        waiting = [caller.order((ANSWER, n)) for n in range(5)]
        for call in hanging:
            assert refusal(call)[0] == INTERNAL
        assert {refusal(call) for call in waiting} == {
            (grpc.StatusCode.UNAVAILABLE, "the model hangs")
        }


def test_a_model_that_comes_back_is_ready_again(caller_of, moody):
    with caller_of("recovers") as caller:
        calls = [caller.order(moody.work(1.5)) for _ in range(4)]
        assert {refusal(call)[0] for call in calls} == {INTERNAL}
        assert not caller.is_model_ready()
        wait_until(caller.is_model_ready)
        assert caller.numbers((ANSWER, 7)) == [7]


def test_a_model_that_hangs_does_not_outlive_the_grace(launch_moody, moody):
    # For the server it has not stalled yet: by default that takes a minute.
    running = launch_moody("--grace-s", "1")
    with Caller(running.address) as caller:
        hanging = caller.busy(moody.work(LONG_S))
        waiting = caller.order((ANSWER, 7))
        assert running.stop(within_s=1 + PATIENCE_S) == 0
        for call in (hanging, waiting):
            assert refusal(call)[0] in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    wait_until(lambda: "stopped after" in "".join(running.errors))
    assert "Traceback" not in "".join(running.errors)
