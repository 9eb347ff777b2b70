"""A cascade's stream: pieces of the small model's text, then the answer."""

import math

import pytest

from edge_runtime import Cascade, Source
from edge_runtime.errors import InputError, UseError


def test_the_pieces_are_the_text_of_the_answer(spoken_bundle):
    with Cascade.open(spoken_bundle, threshold=-math.inf) as cascade:
        *pieces, last = cascade.stream("?")
        assert last._replace(timings=None, request_id="") == cascade("?")._replace(
            timings=None, request_id=""
        )
    assert pieces == ["a", "é", "€", "😀", "b"]
    assert last.text == "".join(pieces)
    assert (last.source, last.deferred) == (Source.EDGE, False)


def test_a_deferral_that_is_certain_ends_the_pieces_and_not_the_answer(spoken_bundle):
    with Cascade.open(spoken_bundle, threshold=math.inf) as cascade:
        *pieces, last = cascade.stream("?")
    assert len(pieces) < 5
    assert last.text == "aé€😀b"
    assert (last.source, last.error) == (Source.EDGE_FALLBACK, "no cloud address was given")


def test_a_stream_that_is_left_counts_nothing(spoken_bundle):
    with Cascade.open(spoken_bundle, threshold=-math.inf) as cascade:
        stream = cascade.stream("?")
        assert next(stream) == "a"
        stream.close()
        assert cascade.stats.snapshot().answers == 0


def test_inputs_that_cannot_be_streamed_raise_at_once(spoken_bundle):
    cascade = Cascade.open(spoken_bundle)
    with pytest.raises(InputError, match="expected"):
        cascade.stream(5)
    cascade.close()
    with pytest.raises(UseError, match="closed"):
        cascade.stream("?")
