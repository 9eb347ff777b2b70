"""A call with a row that cannot be answered: the other rows keep their answers."""

import math

import grpc
import numpy as np
import pytest
from tools.adding_decoder import Adder, write_adder
from tools.callers import Caller, refusal
from tools.faulty_graphs import ANSWER, NOT_A_NUMBER
from tools.foreign_texts import picky_server
from tools.language_models import PROMPTS
from tools.prompts import prompts_request

from edge_runtime import Cascade, Source
from edge_runtime.cloud.breaker import BreakerSettings
from edge_runtime.errors import CloudRejectedError
from edge_runtime.policies.budget import DeferralBudget
from edge_runtime.policies.policy import Policy

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
LONG = "my card " * 60


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_adder(tmp_path_factory.mktemp("adder"), Adder.random(0))


@pytest.fixture
def opened(bundle):
    """Return a function that opens cascades that defer everything, with a sensitive circuit."""
    cascades = []

    def open_it(address, **options):
        settings = {"deadline_s": DEADLINE_S, "breaker": BreakerSettings(failures=1)} | options
        cascades.append(Cascade.open(bundle, cloud=address, threshold=math.inf, **settings))
        return cascades[-1]

    yield open_it
    for cascade in cascades:
        cascade.close()


def own_answers(cascade, prompts):
    """Return the small model's complete answers."""
    return [g.text for g in cascade.edge.decoder.generate(prompts, stop_when_certain=False)]


def test_only_the_bad_prompt_falls_back_with_its_reason(opened, generator, model):
    prompts = [PROMPTS[0], LONG, PROMPTS[2], "", PROMPTS[4]]
    cascade = opened(generator.address)
    answers = cascade.batch(prompts)
    expected = model[1].generate([PROMPTS[0], PROMPTS[2], PROMPTS[4]], 24).texts
    assert [answers[n].text for n in (0, 2, 4)] == list(expected)
    for n in (0, 2, 4):
        assert (answers[n].source, answers[n].error) == (Source.CLOUD, None)
    tokens = len(model[1].tokenizer(LONG)["input_ids"])
    assert answers[1].source is answers[3].source is Source.EDGE_FALLBACK
    assert f"INVALID_ARGUMENT: the prompt has {tokens} tokens: the context of 96 has" in (
        answers[1].error
    )
    assert "INVALID_ARGUMENT: the prompt is empty" in answers[3].error
    # Both are too long for the small model as well, which gives its reason too.
    assert "tokens: the context of 40 has no room for an answer" in answers[1].error
    assert not cascade.cloud.breaker.is_open
    assert cascade.stats.snapshot().errors == {"CloudRejectedError": 1}


def test_the_fallback_answer_is_generated_completely(opened, generator):
    with picky_server("bad") as server:
        cascade = opened(server.address)
        answers = cascade.batch(["bad one", "good"])
    assert [answer.source for answer in answers] == [Source.EDGE_FALLBACK, Source.CLOUD]
    assert answers[0].text == own_answers(cascade, ["bad one"])[0]
    assert math.isfinite(answers[0].confidence)


@pytest.mark.parametrize("at", [0, 7, 22, 31])
def test_if_the_server_names_no_row_the_call_is_halved_until_it_is_found(at, opened):
    prompts = [f"prompt {n}" for n in range(32)]
    prompts[at] = "a bad one"
    with picky_server("bad") as server:
        answers = opened(server.address).batch(prompts)
        assert len(server.calls) <= 1 + 2 * 5
    assert [n for n, a in enumerate(answers) if a.source is not Source.CLOUD] == [at]
    assert [a.text for n, a in enumerate(answers) if n != at] == [
        f"HEARD {prompt}" for n, prompt in enumerate(prompts) if n != at
    ]


def test_the_further_calls_are_limited_and_every_row_gets_a_reason(opened):
    prompts = [f"bad {n}" if n % 2 else f"good {n}" for n in range(64)]
    with picky_server("bad") as server:
        answers = opened(server.address).batch(prompts)
        assert len(server.calls) == 1 + 2 + 2 * 6
    assert {a.source for a in answers} == {Source.EDGE_FALLBACK}
    assert all("INVALID_ARGUMENT" in a.error for a in answers)


def test_a_request_that_is_too_large_is_sent_in_parts(opened):
    prompts = ["x" * 30 for _ in range(8)]
    with picky_server("bad", max_bytes=400) as server:
        answers = opened(server.address).batch(prompts)
    assert {a.source for a in answers} == {Source.CLOUD}


def test_after_a_failure_of_the_model_no_parts_are_sent(opened):
    """An input that hangs a model would hang it again."""
    with picky_server("bad", code=grpc.StatusCode.INTERNAL) as server:
        answers = opened(server.address).batch(["bad", "good", "good"])
        assert len(server.calls) == 1
    assert {a.source for a in answers} == {Source.EDGE_FALLBACK}


def test_the_budget_applies_to_the_parts_as_well(opened):
    policy = Policy(budget=DeferralBudget(max_calls=3, window_s=3600))
    prompts = ["bad", "good", "good", "good"]
    with picky_server("bad") as server:
        answers = opened(server.address, policy=policy).batch(prompts)
        assert len(server.calls) == 3
    assert [a.source for a in answers] == [
        Source.EDGE_BUDGET, Source.EDGE_BUDGET, Source.CLOUD, Source.CLOUD,
    ]  # fmt: skip


def test_the_deadline_applies_to_all_parts_together(opened):
    with picky_server("bad", pause_s=0.2) as server:
        answers = opened(server.address, deadline_s=0.9).batch(["bad", *["good"] * 15])
        assert len(server.calls) <= 5
    assert answers[0].source is Source.EDGE_FALLBACK
    assert "Deadline" in answers[0].error
    assert answers[0].timings.total_s < 0.9 + 0.5


def test_with_errors_raised_the_refusal_is_raised_at_once(opened, generator):
    cascade = opened(generator.address, policy=Policy(on_cloud_failure="raise"))
    with pytest.raises(CloudRejectedError, match="row 1: the prompt is empty") as raised:
        cascade.batch(["what", ""])
    assert list(raised.value.rows) == [1]


def test_the_server_names_every_refused_row(asker):
    call = asker.future(prompts_request("what", "", LONG, "x" * 100_000))
    code, details = refusal(call)
    named = dict(
        value.split(" ", 1)
        for key, value in call.trailing_metadata()
        if key == "gatekeeper-refused-row"
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(named) == ["1", "2", "3"]
    assert details == "; ".join(f"row {row}: {why}" for row, why in named.items())


def test_more_refused_rows_than_metadata_can_hold_are_named_in_several_calls(opened, generator):
    prompts = [""] * 200 + ["what"]
    answers = opened(generator.address).batch(prompts)
    assert [a.source for a in answers[:200]] == [Source.EDGE_FALLBACK] * 200
    assert answers[200].source is Source.CLOUD


def test_a_row_that_the_model_fails_on_is_named_too(launch_moody):
    """A value that is not a number affects only its own row."""
    server = launch_moody()
    with Caller(server.address) as caller:
        call = caller.order((ANSWER, 1), (NOT_A_NUMBER, 2), (ANSWER, 3))
        assert refusal(call)[0] is grpc.StatusCode.INTERNAL
        (named,) = [v for k, v in call.trailing_metadata() if k == "gatekeeper-refused-row"]
        assert named == "1 the model failed: its answer is not a finite number"
        assert np.array_equal(caller.numbers((ANSWER, 1), (ANSWER, 3)), [1, 3])
