"""Complete and refused rows of a batch, from the backend to its callers, over a real connection."""

from __future__ import annotations

import asyncio
import dataclasses
import threading

import grpc
import numpy as np
import pytest
from tools.speller import PATIENCE_S, TEXT, Speller, answers_of, read, serving, spell, until

from cloud_stub.backends.backend import Parameter, Part
from cloud_stub.errors import RefusedRowsError
from cloud_stub.scheduling.statistics import Outcome
from edge_runtime.wire import messages as pb

pytestmark = [pytest.mark.slow, pytest.mark.once]


class Counter(Speller):
    """Counts up to the number in each text, one step at a time, each after a permission."""

    def __init__(self):
        super().__init__()
        self.may_continue = threading.Semaphore(0)
        self.wanted = []

    def infer(self, batch):
        texts = batch.inputs[TEXT]
        self.batches.append(list(texts))
        if refused := {n: "not a number" for n, text in enumerate(texts) if not text.isdigit()}:
            raise RefusedRowsError(refused)
        most = [int(text) for text in texts]
        for count in range(1, max(most) + 1):
            counts = [str(min(count, m)).encode() for m in most]
            whole = frozenset(row for row, m in enumerate(most) if count >= m)
            yield Part({"spelled": np.array(counts, dtype=object)}, whole)
            self.wanted.append([batch.is_wanted(row) for row in range(batch.rows)])
            assert self.may_continue.acquire(timeout=PATIENCE_S)
        yield {"spelled": np.array(counts, dtype=object)}


def read_message(data):
    """Return the same as `read` for a stream's message."""
    message = pb.ModelStreamInferResponse.FromString(data)
    return read(message.infer_response.SerializeToString())


def test_a_part_arrives_before_the_next_is_computed():
    counter = Counter()

    async def scenario(served):
        call = served.stream(spell("2"))
        assert read_message(await call.read()) == ("", ["1"], False)
        counter.may_continue.release(2)
        assert read_message(await call.read()) == ("", ["2"], True)

    serving(scenario, counter)


def test_a_call_is_answered_once_its_rows_are_complete_while_its_batch_continues():
    counter = Counter()

    async def scenario(served):
        short, long = served.infer(spell("1")), served.stream(spell("3", request_id="3"))
        assert read(await short) == ("", ["1"], True)
        assert len(counter.batches) == 1
        assert served.model.batcher.in_flight == 2
        counter.may_continue.release(3)
        assert await answers_of(long) == [
            ("3", ["1"], False), ("3", ["2"], False), ("3", ["3"], True),
        ]  # fmt: skip
        await until(lambda: not served.model.batcher.in_flight)
        assert served.outcomes == {Outcome.ANSWERED: 2}
        assert counter.wanted[-1][counter.batches[0].index("1")] is False

    serving(scenario, counter, max_batch=2, max_delay_s=PATIENCE_S)


def test_a_call_of_several_rows_waits_for_all_of_them():
    counter = Counter()

    async def scenario(served):
        call = served.infer(spell("1", "2"))
        await until(lambda: len(counter.wanted) == 1)
        assert not call.done()
        counter.may_continue.release(2)
        assert read(await call)[1] == ["1", "2"]

    serving(scenario, counter)


def test_refused_rows_refuse_only_their_calls_and_the_others_stay_together():
    counter = Counter()
    counter.may_continue.release(9)

    async def scenario(served):
        calls = [served.infer(spell(*texts)) for texts in (["1"], ["2", "x"], ["3"])]
        assert await calls[1].code() == grpc.StatusCode.INVALID_ARGUMENT
        assert await calls[1].details() == "row 1: not a number"
        assert [read(await calls[n])[1] for n in (0, 2)] == [["1"], ["3"]]
        assert [sorted(batch) for batch in counter.batches] == [["1", "2", "3", "x"], ["1", "3"]]

    serving(scenario, counter, max_batch=4, max_delay_s=PATIENCE_S)


class Muddled(Speller):
    """Refuses a row that it was not given."""

    def infer(self, batch):
        raise RefusedRowsError({batch.rows: "too far"})


def test_a_refusal_of_rows_outside_the_batch_is_a_failure_of_the_model():
    async def scenario(served):
        assert await served.infer(spell("x")).code() == grpc.StatusCode.INTERNAL

    serving(scenario, Muddled())


class Repeater(Speller):
    """Answers each row with the value of its parameter."""

    signature = dataclasses.replace(Speller.signature, parameters=(Parameter("times", 1, 9),))

    def infer(self, batch):
        times = np.asarray(batch.inputs["times"])
        yield {"spelled": np.array([str(n).encode() for n in times], dtype=object)}


def times(value=None):
    request = pb.ModelInferRequest.FromString(spell("x", "y"))
    if value is not None:
        request.parameters["times"].uint64_param = value
    return request.SerializeToString()


def test_each_call_of_a_batch_keeps_its_own_parameters_which_count_as_known():
    async def scenario(served):
        calls = [served.infer(times(3)), served.infer(times())]
        assert [read(call)[1] for call in await asyncio.gather(*calls)] == [["3"] * 2, ["9"] * 2]
        assert served.model.statistics.ignored_parameters == 0
        assert await served.infer(times(10)).code() == grpc.StatusCode.INVALID_ARGUMENT

    serving(scenario, Repeater(), max_batch=4, max_delay_s=PATIENCE_S / 100)
