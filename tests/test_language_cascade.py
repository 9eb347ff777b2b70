"""A cascade of language models from end to end: checkpoints, bundle, server, prompts, texts."""

import math

import numpy as np
import pytest
from tools.things import new_language_model, write_task

from benchmarks.processes import running_server
from edge_runtime import Cascade, Policy, Source
from edge_runtime.errors import InputError, SettingError
from edge_runtime.language import Decoder
from export.commands.language import LanguageSettings
from train.data.tasks import load_task
from train.language.settings import FitLanguageSettings
from train.models import open_language_model

pytestmark = pytest.mark.slow
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return (task, bundle of a half-taught M_S, folder of a fully taught M_L)."""
    root = tmp_path_factory.mktemp("cascade")
    folder = str(write_task(root / "things"))
    start = new_language_model(folder, root / "new", "llama")
    for name, epochs in (("small", 6), ("large", 20)):
        FitLanguageSettings(
            checkpoint=start, task=folder, out=root / name, epochs=epochs, batch_size=8
        ).run()
    bundle = root / "bundle"
    LanguageSettings(
        checkpoint=root / "small", calibrate=folder, target_deferral=0.5, out=bundle
    ).run()
    return load_task(folder), bundle, root / "large"


@pytest.fixture(scope="module")
def address(world):
    with running_server(["cloud_stub", "--checkpoint", str(world[2]), "--port", "0"]) as found:
        yield found


def test_the_edge_answers_what_it_is_sure_of_and_the_cloud_the_rest(world, address):
    task, bundle, large = world
    prompts = [example.prompt for example in task.test]
    with Cascade.open(bundle, cloud=address, deadline_s=DEADLINE_S) as cascade:
        answers = cascade.batch(prompts)
        alone = cascade(prompts[0])
    texts = open_language_model(large).generate(prompts, 12).texts
    assert {answer.source for answer in answers} == {Source.EDGE, Source.CLOUD}
    for answer, text in zip(answers, texts, strict=True):
        assert answer.deferred == (answer.source is Source.CLOUD)
        assert answer.prediction == -1
        if answer.deferred:
            assert answer.text == text
    assert (alone.text, alone.source) == (answers[0].text, answers[0].source)
    right = np.mean([task.is_right(a.text, e) for a, e in zip(answers, task.test, strict=True)])
    with Cascade.open(bundle) as nothing:
        small = nothing.batch(prompts)
    assert right > np.mean(
        [task.is_right(a.text, e) for a, e in zip(small, task.test, strict=True)]
    )


def test_a_stream_ends_with_the_answer_of_the_cascade(world, address):
    task, bundle, _ = world
    prompts = [example.prompt for example in task.test]
    with Cascade.open(bundle, cloud=address, deadline_s=DEADLINE_S) as cascade:
        answers = cascade.batch(prompts)
        streamed = [list(cascade.stream(prompt)) for prompt in prompts]
        counted = cascade.stats.snapshot().answers
    assert {answer.source for answer in answers} == {Source.EDGE, Source.CLOUD}
    for answer, (*pieces, last) in zip(answers, streamed, strict=True):
        assert (last.text, last.source, last.deferred) == (
            answer.text,
            answer.source,
            answer.deferred,
        )
        assert last.error is None
        if last.source is Source.EDGE:
            assert "".join(pieces) == answer.text
    assert counted == 2 * len(prompts)


def test_closing_a_stream_early_forwards_nothing(world, address):
    task, bundle, _ = world
    with Cascade.open(bundle, cloud=address, deadline_s=DEADLINE_S, threshold=math.inf) as cascade:
        stream = cascade.stream(task.test[0].prompt)
        stream.close()
        assert cascade.sent_bytes == 0
        (*_, last) = cascade.stream(task.test[0].prompt)
        assert last.source is Source.CLOUD
        assert cascade.sent_bytes > 0


def test_a_stream_without_a_cloud_ends_with_the_whole_answer(world):
    task, bundle, _ = world
    prompt = task.test[0].prompt
    with Cascade.open(bundle, threshold=math.inf) as cascade:
        *pieces, last = cascade.stream(prompt)
    (whole,) = Decoder.open(bundle).generate([prompt], stop_when_certain=False)
    assert (last.text, last.source) == (whole.text, Source.EDGE_FALLBACK)
    assert whole.text.startswith("".join(pieces))


def test_cloud_only_mode_streams_no_pieces(world, address):
    task, bundle, large = world
    prompt = task.test[0].prompt
    policy = Policy(mode="cloud_only")
    with Cascade.open(bundle, cloud=address, deadline_s=DEADLINE_S, policy=policy) as cascade:
        (answer,) = cascade.stream(prompt)
    assert answer.source is Source.CLOUD
    assert answer.text == open_language_model(large).generate([prompt], 12).texts[0]


def test_without_a_cloud_the_small_model_answers_with_the_reason(world):
    task, bundle, _ = world
    prompts = [example.prompt for example in task.test]
    with Cascade.open(bundle, threshold=math.inf) as cascade:
        answers = cascade.batch(prompts)
    assert {answer.source for answer in answers} == {Source.EDGE_FALLBACK}
    assert {answer.error for answer in answers} == {"no cloud address was given"}
    # Full texts with their full confidence, although deferral was certain from the start.
    whole = Decoder.open(bundle).generate(prompts, stop_when_certain=False)
    assert [answer.text for answer in answers] == [one.text for one in whole]
    assert [answer.confidence for answer in answers] == [
        np.float32(one.confidence) for one in whole
    ]


@pytest.mark.parametrize("prompt", ["", "the sky " * 200])
def test_a_prompt_that_cannot_be_answered_on_the_edge_goes_to_the_cloud(prompt, world, address):
    """If the cloud cannot answer it either, the answer carries the cloud's error."""
    with Cascade.open(world[1], cloud=address, deadline_s=DEADLINE_S) as cascade:
        answer = cascade(prompt)
    assert answer.deferred
    assert math.isnan(answer.confidence)
    assert answer.source is Source.EDGE_FALLBACK
    assert "CloudRejectedError" in answer.error
    assert answer.text == ""


def test_an_input_that_is_not_a_text_is_refused(world):
    with Cascade.open(world[1]) as cascade, pytest.raises(InputError, match="expected texts"):
        cascade.batch([np.zeros(3)])
    with (
        Cascade.open(world[1]) as middle,
        pytest.raises(SettingError, match="expected an address as cloud"),
    ):
        Cascade.open(world[1], cloud=middle)
    with pytest.raises(SettingError, match="no cloud_reduce"):
        Cascade.open(world[1], cloud="localhost:1", cloud_reduce="argmax")
