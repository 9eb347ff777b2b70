"""Reading a long prompt ends with a cancellation, in a real graph that is slow."""

import threading
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tools.adding_decoder import Adder, seal, write_adder
from tools.callers import wait_until
from tools.faulty_graphs import loop_body

from edge_runtime.bundle import read_bundle
from edge_runtime.contract import ROLE_DECODER
from edge_runtime.language.decoder import Decoder

pytestmark = pytest.mark.slow

STEPS_A_TOKEN = 14_000_000
"""Iterations of a loop; a prompt of 36 tokens takes minutes, at least ten seconds anywhere."""
SOON_S = 8.0


def write_slow_adder(folder):
    """Write a bundle that reads a long prompt for minutes, and a short one at once."""
    write_adder(folder, Adder.random(0))
    file = folder / "model.onnx"
    metadata = read_bundle(folder, ROLE_DECODER).metadata
    model = onnx.load(file)
    graph, node = model.graph, helper.make_node
    constants = {
        "far": np.array(35, np.int64),
        "nil": np.array(0, np.int64),
        "pace": np.array(STEPS_A_TOKEN, np.int64),
        "still": np.array(True),
        "start": np.zeros(64, np.float32),
        "nought": np.array(0, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    for one in graph.node:
        if one.output[0] == "numbers":
            one.output[0] = "plain_numbers"
    slow = [
        node("Shape", ["input_ids"], ["read_"], start=1),
        node("Squeeze", ["read_"], ["read"]),
        node("Sub", ["read", "far"], ["over"]),
        node("Max", ["over", "nil"], ["long"]),
        node("Mul", ["long", "pace"], ["turns"]),
        node("Loop", ["turns", "still", "start"], ["spun"], body=loop_body()),
        node("ReduceMax", ["spun"], ["most"], keepdims=0),
        node("Mul", ["most", "nought"], ["nothing"]),
        node("Add", ["plain_numbers", "nothing"], ["numbers"]),
    ]
    (at,) = [n for n, one in enumerate(graph.node) if one.output[0] == "plain_numbers"]
    nodes = [*graph.node[: at + 1], *slow, *graph.node[at + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, file)
    seal(folder, metadata)
    return folder


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
