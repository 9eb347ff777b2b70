"""Reading a long prompt ends with a cancellation, in a real graph that is slow."""

import itertools
import threading
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tools.adding_decoder import Adder, seal, write_adder
from tools.callers import wait_until

from edge_runtime.bundle import read_bundle
from edge_runtime.contract import ROLE_DECODER
from edge_runtime.language.decoder import Decoder

pytestmark = pytest.mark.slow

PRODUCTS, SIDE = 4000, 1024
"""Products of square matrices, of 2 * 1024^3 operations each: they take minutes on one core."""
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
        "ones": np.full((SIDE, SIDE), 1 / SIDE, np.float32),
        "nought": np.array(0, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    for one in graph.node:
        if one.output[0] == "numbers":
            one.output[0] = "plain_numbers"
    slow = [
        node("Shape", ["input_ids"], ["read_"], start=1),
        node("Squeeze", ["read_"], ["read"]),
        node("Greater", ["read", "far"], ["is_long"]),
        node("Cast", ["is_long"], ["factor"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["ones", "factor"], ["product0"]),  # depends on the prompt: not folded
        node("If", ["is_long"], ["spun"], then_branch=products(), else_branch=nothing()),
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


def products():
    """Return a branch that multiplies a matrix by another many times."""
    names = [f"product{n}" for n in range(PRODUCTS + 1)]
    pairs = itertools.pairwise(names)
    nodes = [helper.make_node("MatMul", [one, "product0"], [to]) for one, to in pairs]
    return helper.make_graph(nodes, "products", [], [matrix(names[-1])])


def nothing():
    return helper.make_graph(
        [helper.make_node("Identity", ["product0"], ["same"])], "nothing", [], [matrix("same")]
    )


def matrix(name):
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [SIDE, SIDE])


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
