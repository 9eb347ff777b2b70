import gc
import weakref

import numpy as np
import pytest
from tools.adding_decoder import Adder, write_adder

from edge_runtime.language import Decoder
from edge_runtime.language.graph import ArrayRunner, BoundRunner, Sequences

PROMPTS = ["hello", "a", "what is this", "é", "one two three four"]
READ = ("next_token", "confidence", "defer", "present.confidence", "present.active")


@pytest.fixture
def bound(adder, tmp_path):
    """A decoder that binds its caches, as on a CUDA device."""
    decoder = Decoder.open(write_adder(tmp_path, adder), threads=1)
    runner = decoder._graph.runner
    assert isinstance(runner, ArrayRunner)
    decoder._graph.runner = BoundRunner(runner._session, runner._outputs, READ, "cpu")
    return decoder


@pytest.mark.parametrize("compact", [False, True])
def test_bound_caches_give_the_same_answers(compact, bound, decoder):
    expected = decoder.generate(PROMPTS, stop=["z"])
    for one, other in zip(
        bound.generate(PROMPTS, stop=["z"], compact=compact), expected, strict=True
    ):
        assert (one.tokens, one.ended, one.defer) == (other.tokens, other.ended, other.defer)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def cache(decoder):
    """Return sequences that have run a step."""
    sequences = Sequences(decoder._graph, [[1, 2, 3], [4]], 0.0)
    sequences.step()
    return sequences


def test_the_next_step_works_on_the_cache_where_it_is(decoder):
    sequences = cache(decoder)
    values = sequences._feeds["past.0.key"]
    assert values.tolist()[0] == [[[1.0], [2.0], [3.0]]]
    assert not values.flags.owndata  # ONNX Runtime's memory, seen as an array


def test_caches_are_freed_with_their_sequences(decoder):
    sequences = cache(decoder)
    values = weakref.ref(sequences._feeds["past.0.key"])
    assert values() is not None
    del sequences
    gc.collect()
    assert values() is None


def test_a_stream_that_is_closed_frees_its_caches(decoder, monkeypatch):
    made = []
    start = Sequences.__init__

    def watched(self, *given):
        start(self, *given)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Sequences, "__init__", watched)
    stream = decoder.stream("what is this")
    next(stream)
    assert made[0]() is not None
    stream.close()
    gc.collect()
    assert made[0]() is None


def test_a_row_that_leaves_takes_its_cache_along(decoder):
    sequences = cache(decoder)
    sequences.keep([1])
    assert sequences._feeds["past.0.key"].shape == (1, 1, 3, 1)
    assert sequences._feeds["attention_mask"].tolist() == [[0, 0, 1, 1]]


def test_every_step_compares_with_the_threshold_of_the_call(tmp_path):
    bundle = write_adder(tmp_path, Adder.saying("ab", sharpness=6.0), threshold=-5.0)
    decoder = Decoder.open(bundle, threads=1)
    (answer,) = decoder.generate(["?"])
    just = answer.confidence
    above = float(np.nextafter(np.float32(just), np.float32(0)))
    assert not answer.defer
    assert not decoder.generate(["?"], threshold=just)[0].defer
    assert decoder.generate(["?"], threshold=above)[0].defer
    assert Decoder.open(bundle, threshold=above, threads=1).generate(["?"])[0].defer
