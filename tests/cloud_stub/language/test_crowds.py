"""Many prompts at once through the edge, to a real server with a short queue."""

import math
import threading

import pytest
from tools.adding_decoder import Adder, write_adder
from tools.language_models import PROMPTS

from edge_runtime import Cascade, Source
from edge_runtime.cloud.breaker import BreakerSettings

pytestmark = pytest.mark.slow

COUNT = 60
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_adder(tmp_path_factory.mktemp("adder"), Adder.random(0))


def opened(bundle, generator, **options):
    """Open a cascade that defers everything."""
    options = {"model": "narrow", "deadline_s": DEADLINE_S} | options
    return Cascade.open(bundle, cloud=generator.address, threshold=math.inf, **options)


def count_of_cloud(answers, prompts, cascade, model):
    """Check each answer against its source; return the number of the cloud's."""
    expected = model[1].generate(prompts, 24).texts
    own = cascade.edge.decoder.generate(prompts, stop_when_certain=False)
    for answer, cloud, edge in zip(answers, expected, own, strict=True):
        if answer.source is Source.CLOUD:
            assert (answer.text, answer.error) == (cloud, None)
        else:
            assert (answer.source, answer.text) == (Source.EDGE_FALLBACK, edge.text)
    return [answer.source for answer in answers].count(Source.CLOUD)


def prompts_of(count):
    return [f"{PROMPTS[n % len(PROMPTS)][:12]} {n}" for n in range(count)]


def test_one_call_of_many_prompts_is_answered_by_the_cloud_in_order(bundle, generator, model):
    prompts = prompts_of(COUNT)
    with opened(bundle, generator) as cascade:
        assert count_of_cloud(cascade.batch(prompts), prompts, cascade, model) == COUNT


def test_each_of_many_threads_gets_the_answer_of_the_cloud_or_the_edge(bundle, generator, model):
    """The circuit opens on overload and closes again; no accepted call is cut off."""
    prompts = prompts_of(COUNT)
    answers = [None] * COUNT
    patient = BreakerSettings(failures=2, probe_interval_s=0.02)
    with opened(bundle, generator, breaker=patient) as cascade:

        def ask(n):
            answers[n] = cascade(prompts[n])

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count_of_cloud(answers, prompts, cascade, model) >= 2
    kinds = {answer.error.partition(":")[0] for answer in answers if answer.error}
    assert kinds <= {"CloudOverloadedError", "CloudCircuitOpenError"}


def test_submitted_prompts_wait_for_the_cloud(bundle, generator, model):
    prompts = prompts_of(16)
    with opened(bundle, generator) as cascade:
        futures = [cascade.submit(prompt) for prompt in prompts]
        answers = [future.result() for future in futures]
        assert count_of_cloud(answers, prompts, cascade, model) == 16
