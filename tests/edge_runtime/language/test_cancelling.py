"""Reading a long prompt ends with a cancellation, in a real graph that is slow."""

import threading
import time

import pytest
from tools.adding_decoder import write_slow_adder
from tools.callers import wait_until

from edge_runtime.language.decoder import Decoder

pytestmark = pytest.mark.slow

SOON_S = 8.0


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return Decoder.open(write_slow_adder(tmp_path_factory.mktemp("slow")), threads=1)


def test_reading_a_long_prompt_ends_with_its_caller_and_defers(reader):
    cancel = threading.Event()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    begin = time.monotonic()
    (answer,) = reader.generate(["x" * 36], cancel=cancel)
    assert time.monotonic() - begin < SOON_S
    assert (answer.ended, answer.tokens, answer.defer) == ("cancelled", (), True)
    assert answer.reason == "cancelled before its end"


def test_a_stream_whose_prompt_is_being_read_ends_with_its_caller(reader):
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    begin = time.monotonic()
    (verdict,) = reader.stream("x" * 36, cancel=cancel)
    assert time.monotonic() - begin < SOON_S
    assert verdict.ended == "cancelled"


def test_a_caller_that_stays_gets_the_same_answer_as_without_cancellation(reader):
    never = threading.Event()
    with_it, without = (reader.generate(["x" * 33], cancel=one)[0].tokens for one in (never, None))
    assert with_it == without
    assert without
    wait_until(lambda: "cancel-watch" not in [thread.name for thread in threading.enumerate()])
