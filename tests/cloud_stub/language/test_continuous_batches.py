"""Prompts join the running batch of a served language model between two tokens."""

import time

import grpc
import pytest
from tools.callers import callers, refusal
from tools.language_models import PROMPTS
from tools.prompts import Asker, answer_in, part_of, prompts_request

from edge_runtime.wire import messages as pb

pytestmark = pytest.mark.slow

PROMPT = PROMPTS[0]
LONG = 6000
"""Tokens of an answer that others do not wait for; a batch may hold five such answers."""


@pytest.fixture
def other(generator):
    with Asker(generator.address) as opened:
        yield opened


def stream(asker, prompt, most, model):
    return asker.stream(prompts_request(prompt, max_tokens=most, model=model), timeout=None)


def test_a_short_answer_does_not_wait_for_a_long_one_before_it(asker, other):
    answered = asker.statistics("talker").inference_count
    long = stream(asker, PROMPT, LONG, "talker")
    texts = [part_of(next(long))[0] for _ in range(3)]
    answers = other.ask(*PROMPTS[1:], max_tokens=5, model="talker")
    # The long one is not among the answered ones.
    assert other.statistics("talker").inference_count == answered + len(PROMPTS[1:])
    texts += [part_of(next(long))[0] for _ in range(17)]
    long.cancel()
    assert answers[0] == [asker.ask(p, max_tokens=5, model="talker")[0][0] for p in PROMPTS[1:]]
    # And the long one says the same as alone.
    alone = [text for text, _ in asker.parts(PROMPT, max_tokens=21, model="talker")]
    assert texts == alone[:20]


def test_the_rows_of_all_running_calls_together_are_limited_to_a_batch(asker, other):
    two = [stream(asker, PROMPT, LONG, "two") for _ in range(2)]
    for call in two:
        next(call)
    third = other.future(prompts_request(PROMPTS[2], max_tokens=3, model="two"))
    for _ in range(20):
        next(two[0])
    assert not third.done()
    two[1].cancel()
    assert len(answer_in(pb.ModelInferResponse.FromString(third.result()))[0]) == 1
    two[0].cancel()


def test_a_call_as_large_as_a_batch_is_answered_beside_a_running_one(asker, other):
    """It has half of the batch at a time; otherwise it would wait, and hold back all others."""
    first = stream(asker, PROMPT, LONG, "two")
    next(first)
    both = asker.future(prompts_request(PROMPT, PROMPTS[2], max_tokens=3, model="two"))
    later = other.future(prompts_request(PROMPTS[3], max_tokens=3, model="two"))
    assert len(answer_in(pb.ModelInferResponse.FromString(both.result()))[0]) == 2
    assert len(answer_in(pb.ModelInferResponse.FromString(later.result()))[0]) == 1
    assert not first.done()
    first.cancel()


def test_a_long_prompt_is_read_between_the_tokens_of_the_others(asker, other):
    """Reading it takes far longer than a token."""
    running = stream(asker, PROMPT, LONG, "talker")
    next(running)
    long = other.future(prompts_request("x" * 4000, max_tokens=1, model="talker"))
    tokens = 0
    while not long.done():
        next(running)
        tokens += 1
    running.cancel()
    assert answer_in(pb.ModelInferResponse.FromString(long.result()))[0]
    # A piece has 256 tokens, and every character is one.
    assert tokens >= 4000 // 256


def test_reading_a_long_prompt_stops_when_its_caller_leaves(asker):
    """Reading all of it takes minutes; the next caller gets the model at once."""
    leaves = asker.future(
        prompts_request("y" * 200_000, max_tokens=1, model="talker"), timeout=None
    )
    time.sleep(0.3)
    leaves.cancel()
    begin = time.monotonic()
    assert len(asker.ask(PROMPT, max_tokens=3, model="talker")[0]) == 1
    assert time.monotonic() - begin < 30


def test_each_of_a_hundred_streams_at_once_is_answered_completely_or_asked_to_retry(
    generator, model
):
    texts = [model[1].generate([prompt], 4).texts[0] for prompt in PROMPTS]
    with callers(generator.address, 4) as connections:
        streams = [
            (n % len(PROMPTS), connections[n % 4].channel.stream_stream(
                pb.METHODS["ModelStreamInfer"], None, None
            )(iter([prompts_request(PROMPTS[n % len(PROMPTS)], max_tokens=4, model="narrow")]),
              timeout=60.0))
            for n in range(100)
        ]  # fmt: skip
        ended = [(row, [part_of(data) for data in stream][-1]) for row, stream in streams]
    refused = [last for _, last in ended if isinstance(last, str)]
    answered = [(row, last) for row, last in ended if not isinstance(last, str)]
    assert all(text.endswith("calls are waiting already: try again later") for text in refused)
    assert all(last[0] == [texts[row]] for row, last in answered)
    assert len(answered) >= 16


def test_an_answer_may_take_longer_than_the_stall_limit_while_it_grows(asker):
    call = asker.stream(prompts_request(PROMPT, model="restless"), timeout=None)
    begin = time.monotonic()
    while time.monotonic() - begin < 1.2:
        assert len(part_of(next(call))) == 2
    call.cancel()
    late = asker.future(prompts_request(PROMPT, model="restless"), timeout=1.2)
    assert refusal(late)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
