"""A model that answers bit by bit, behind the real front, over a real connection."""

from __future__ import annotations

import asyncio
import dataclasses
from math import inf

import grpc
import numpy as np
import pytest
from tools.speller import (
    PATIENCE_S,
    TEXT,
    Speller,
    answers_of,
    parts,
    read,
    serving,
    spell,
    until,
)

from cloud_stub.scheduling.statistics import Outcome
from edge_runtime.wire import messages as pb

pytestmark = [pytest.mark.slow, pytest.mark.once]


def test_parts_arrive_in_order_and_before_the_complete_answer():
    async def scenario(served):
        call = served.stream(spell("to be or not", request_id="1"))
        assert await answers_of(call) == [
            ("1", ["to"], False),
            ("1", ["to be"], False),
            ("1", ["to be or"], False),
            ("1", ["to be or not"], True),
        ]
        assert served.outcomes == {Outcome.ANSWERED: 1}

    serving(scenario)


def test_a_part_is_sent_before_the_next_is_computed():
    speller = Speller(pause_s=0.05)

    async def scenario(served):
        call = served.stream(spell("w " * 100))
        await call.read()
        assert speller.spoken < 50
        call.cancel()

    serving(scenario, speller)


def test_a_plain_call_gets_only_the_complete_answer():
    async def scenario(served):
        assert read(await served.infer(spell("to be", "or"))) == ("", ["to be", "or"], True)

    serving(scenario)


def test_two_callers_in_one_batch_get_their_own_parts():
    speller = Speller()

    async def scenario(served):
        texts = {"1": "to be or not to be", "2": "that is"}
        calls = [served.stream(spell(text, request_id=name)) for name, text in texts.items()]
        first, second = await asyncio.gather(*map(answers_of, calls))
        assert first == parts("1", texts["1"])
        # Its text is complete, but its batch is not.
        assert second[:2] == [("2", ["that"], False), ("2", ["that is"], False)]
        assert second[-1] == ("2", ["that is"], True)
        assert len(speller.batches) == 1

    serving(scenario, speller, max_batch=2, max_delay_s=PATIENCE_S)


def test_one_stream_s_requests_are_answered_in_their_order():
    async def scenario(served):
        texts = {str(n): "a b c d e"[: 2 * n + 1] for n in range(5)}
        call = served.stream(*(spell(text, request_id=name) for name, text in texts.items()))
        answers = await answers_of(call)
        assert [name for name, _, is_whole in answers if is_whole] == list(texts)
        assert [name for name, *_ in answers] == sorted(name for name, *_ in answers)

    serving(scenario)


def test_a_client_that_cancels_ends_the_generation():
    speller = Speller(pause_s=0.01)

    async def scenario(served):
        call = served.stream(spell("w " * 60_000))
        await call.read()
        call.cancel()
        await until(speller.has_ended.is_set)
        assert speller.spoken < 50_000
        assert await answers_of(served.stream(spell("again"))) == parts("", "again")
        assert served.outcomes == {Outcome.CANCELLED: 1, Outcome.ANSWERED: 1}

    serving(scenario, speller)


class Rattler(Speller):
    """Repeats a long word, faster than any client can read."""

    def infer(self, batch):
        for _ in range(2000):
            self.spoken += 1
            yield {"spelled": np.array([b"r" * 60_000] * batch.rows, dtype=object)}


def test_a_slow_reader_misses_parts_but_gets_the_complete_answer():
    rattler = Rattler()

    async def scenario(served):
        call = served.stream(spell("go"))
        await until(lambda: rattler.spoken == 2000 and not served.model.batcher.in_flight)
        answers = await answers_of(call)
        assert len(answers) < 1000
        assert [is_whole for *_, is_whole in answers[-2:]] == [False, True]

    serving(scenario, rattler)


class Single(Speller):
    """Accepts one call at a time."""

    signature = dataclasses.replace(Speller.signature, is_batched=False)


def test_a_model_without_batches_never_waits_for_more_calls():
    async def scenario(served):
        call = served.infer(spell("now"), timeout=PATIENCE_S / 2)
        assert read(await call)[1] == ["now"]

    serving(scenario, Single(), max_delay_s=PATIENCE_S)


def test_a_front_that_drains_refuses_new_calls_and_answers_accepted_ones():
    async def scenario(served):
        accepted = served.infer(spell("w " * 20))
        await until(lambda: served.model.batcher.in_flight)
        drained = asyncio.create_task(served.front.drain(PATIENCE_S))
        late = served.infer(spell("late"))
        assert await late.code() == grpc.StatusCode.UNAVAILABLE
        assert await late.details() == "the server is shutting down"
        assert read(await accepted)[1] == [("w " * 20).strip()]
        await drained
        stream = served.stream(spell("late", request_id="1"))
        assert await answers_of(stream) == [("1", "the server is shutting down")]

    serving(scenario, Speller(pause_s=0.02))


def test_a_deadline_ends_the_generation():
    speller = Speller(pause_s=0.01)

    async def scenario(served):
        call = served.stream(spell("w " * 60_000), timeout=0.5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answers_of(call)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(speller.has_ended.is_set)
        await until(lambda: served.outcomes)
        assert served.outcomes == {Outcome.EXPIRED: 1}

    serving(scenario, speller)


def test_a_caller_gets_its_answer_although_another_of_its_batch_leaves():
    speller = Speller(pause_s=0.01)

    async def scenario(served):
        stays = asyncio.create_task(answers_of(served.stream(spell("w " * 30))))
        leaves = served.stream(spell("w " * 30))
        await leaves.read()
        leaves.cancel()
        assert await stays == parts("", "w " * 30)
        assert speller.spoken == 30

    serving(scenario, speller, max_batch=2, max_delay_s=PATIENCE_S)


def test_a_model_that_fails_half_way_fails_only_that_call_and_sends_no_part_twice(caplog):
    async def scenario(served):
        calls = [
            served.stream(spell("one two three four", request_id="1")),
            served.stream(spell("one two stumble four", request_id="2")),
        ]
        first, second = await asyncio.gather(*map(answers_of, calls))
        assert first == [
            ("1", ["one"], False),
            ("1", ["one two three four"], True),
        ]
        assert second == [
            ("2", ["one"], False),
            ("2", "the model failed: ValueError: a forbidden word"),
        ]

    serving(scenario, max_batch=2, max_delay_s=PATIENCE_S)
    assert "Traceback" in caplog.text


def test_a_refusal_for_the_state_of_the_server_is_not_retried_call_by_call():
    speller = Speller()

    async def scenario(served):
        calls = [served.infer(spell(text)) for text in ("busy", "fine")]
        for call in calls:
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
        assert len(speller.batches) == 1

    serving(scenario, speller, max_batch=2, max_delay_s=PATIENCE_S)


def test_a_refusal_for_the_size_of_a_batch_is_retried_call_by_call():
    async def scenario(served):
        calls = [served.infer(spell(text)) for text in ("crowd", "fine")]
        assert [read(await call)[1] for call in calls] == [["crowd"], ["fine"]]

    serving(scenario, max_batch=2, max_delay_s=PATIENCE_S)


def test_an_error_answers_its_request_and_the_stream_continues():
    async def scenario(served):
        call = served.stream(
            spell("one", request_id="1"),
            b"\x0a\xff",
            spell("stumble", request_id="2"),
            spell("two", request_id="3"),
        )
        first, garbage, failed, last = await answers_of(call)
        assert (first, last) == (("1", ["one"], True), ("3", ["two"], True))
        assert garbage[0] == ""
        assert failed == ("2", "the model failed: ValueError: a forbidden word")
        assert served.outcomes == {Outcome.ANSWERED: 2, Outcome.FAILED: 1}

    serving(scenario)


class Mumbler(Speller):
    """Answers with objects that no message can carry."""

    def infer(self, batch):
        texts = batch.inputs[TEXT]
        bad = object() if "mumble" in texts else b"fine"
        yield {"spelled": np.array([bad] * len(texts), dtype=object)}


def test_an_answer_that_cannot_be_written_fails_its_call_alone():
    async def scenario(served):
        answers = await answers_of(served.stream(spell("mumble", request_id="1"), spell("x")))
        assert answers[0][1].startswith("the server failed: ")
        assert answers[1] == ("", ["fine"], True)
        assert await served.infer(spell("mumble")).code() == grpc.StatusCode.INTERNAL
        assert served.outcomes == {Outcome.ANSWERED: 1, Outcome.FAILED: 2}

    serving(scenario, Mumbler())


class Shrinker(Speller):
    """Yields a part that lacks a row."""

    def infer(self, batch):
        texts = [text.encode() for text in batch.inputs[TEXT]]
        yield {"spelled": np.array(texts[1:], dtype=object)}
        yield {"spelled": np.array(texts, dtype=object)}


def test_a_part_with_another_number_of_rows_is_not_passed_on():
    async def scenario(served):
        ((name, words),) = await answers_of(served.stream(spell("a", "b", request_id="1")))
        assert name == "1"
        assert "expected its output 'spelled' as [2], got [1]" in words

    serving(scenario, Shrinker())


def test_expired_and_cancelled_calls_are_distinguished():
    async def send(served, name):
        is_patient = name.startswith("patient")
        request = spell("w " * 100, request_id=name)
        call = served.infer(request, timeout=PATIENCE_S if is_patient else 0.2)
        await until(lambda: served.model.batcher.in_flight or call.done())
        if is_patient:
            call.cancel()
        code = grpc.StatusCode.CANCELLED if is_patient else grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.code() == code
        await until(lambda: not served.model.batcher.in_flight)

    async def scenario(served):
        await served.channel.channel_ready()
        for n in range(8):
            await send(served, f"patient {n}")
            await send(served, f"hasty {n}")
        await until(lambda: sum(served.outcomes.values()) == len(served.calls) >= 12)
        codes = {record.request_id: record.code for record in served.calls}
        patient = [code for name, code in codes.items() if name.startswith("patient")]
        assert patient == [grpc.StatusCode.CANCELLED] * 8
        # If a request took long to arrive, its caller's deadline passes long before the server's.
        assert list(codes.values()).count(grpc.StatusCode.DEADLINE_EXCEEDED) > 4

    serving(scenario, Speller(pause_s=0.01))


def own_tasks():
    """Return the tasks that run the front's code."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks()]
    return [one for one in coroutines if "cloud_stub/protocol" in one.cr_code.co_filename]


def test_a_stream_that_is_dropped_with_all_its_requests_leaves_no_task_behind():
    async def scenario(served):
        call = served.stream(*(spell("w " * 1000) for _ in range(40)))
        await call.read()
        assert len(own_tasks()) > 10
        call.cancel()
        await until(lambda: not own_tasks())

    serving(scenario, Speller(pause_s=0.05))


def test_a_call_without_a_deadline_is_answered():
    async def scenario(served):
        assert read(await served.infer(spell("now"), timeout=None))[1] == ["now"]
        assert served.calls[0].total_s < inf

    serving(scenario)


def test_one_confidence_per_input_is_read():
    async def scenario(served):
        request = pb.ModelInferRequest.FromString(spell("a", "b"))
        request.parameters["gatekeeper_confidence"].string_param = "0.5," * 1_000_000
        await served.infer(request.SerializeToString())
        (received,) = served.model.statistics.received.values()
        assert (received.confidence.count, received.invalid) == (2, 0)

    serving(scenario)
