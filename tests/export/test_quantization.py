"""Quantized graphs: smaller, near the float ones, and the gate behind them in float32."""

import functools
import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tools.foreign_models import logits_graph
from tools.processor import needs_exact_int8

from export.classifier.gate import append_gate
from export.errors import GraphError
from export.graphs import copy_model, serialize
from export.quantization import quantize
from export.session import open_graph

pytestmark = pytest.mark.slow


@functools.cache
def _logits(name, size=16):
    """Return a graph of logits, which nobody changes."""
    from train.models import build

    checkpoint = build(name, labels=[str(i) for i in range(10)], image_size=(size, size), seed=2)
    return logits_graph(checkpoint, (size, size))


@functools.cache
def _transformer():
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    from train.models import Checkpoint

    config = ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=256,
        num_labels=10,
    )
    labels = tuple(str(i) for i in range(10))
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    model = ViTForImageClassification(config).eval()
    return logits_graph(Checkpoint(model, processor, labels, None), (16, 16))


@pytest.fixture(scope="module")
def int8(pixels):
    """Return a function from the name of a model to its int8 graph, made once."""
    return functools.cache(lambda name: quantize(_logits(name), "int8", pixels))


@pytest.fixture(scope="module")
def pixels():
    coarse = np.random.default_rng(0).normal(size=(48, 3, 4, 4))
    return np.kron(coarse, np.ones((1, 1, 4, 4))).astype(np.float32)


def _run(model, pixels):
    return open_graph(model).run(None, {"pixel_values": pixels})[0]


@pytest.mark.parametrize(
    ("make", "kind", "smaller", "near"),
    [
        (lambda: _logits("resnet-20"), "int8", 3.0, 0.05),
        (lambda: _logits("small-cnn"), "int8", 3.0, 0.05),
        (lambda: _logits("resnet-20"), "fp16", 1.9, 0.01),
        pytest.param(_transformer, "int8-dynamic", 3.0, 0.05, marks=needs_exact_int8),
        (_transformer, "int4", 4.0, 0.25),
    ],
)
def test_a_quantized_graph_is_smaller_and_near(make, kind, smaller, near, pixels):
    model = make()
    quantized = quantize(model, kind, pixels)
    onnx.checker.check_model(quantized)
    assert model.ByteSize() / quantized.ByteSize() > smaller
    expected, got = _run(model, pixels), _run(quantized, pixels)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - expected).max() < near * np.abs(expected).max()


def test_the_gate_behind_it_stays_in_float32(int8):
    quantized = copy_model(int8("resnet-20"))
    append_gate(quantized, kind="max_softmax", threshold=0.2)
    types = {o.name: o.type.tensor_type.elem_type for o in quantized.graph.output}
    assert types["confidence"] == TensorProto.FLOAT
    many = np.random.default_rng(1).normal(size=(2000, 3, 16, 16)).astype(np.float32)
    _, confidence, _ = open_graph(quantized).run(None, {"pixel_values": many})
    # Quantized with the rest it would have at most 256.
    assert len(np.unique(confidence)) > 1000


def _in_float32(model):
    """Return for each convolution whether what it takes is left in float32."""
    quantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    return [n.input[0] not in quantized for n in model.graph.node if n.op_type == "Conv"]


@pytest.mark.parametrize(("name", "count"), [("resnet-20", 3), ("small-cnn", 1)])
def test_the_first_convolutions_stay_in_float32(name, count, int8):
    found = _in_float32(int8(name))
    assert found[:count] == [True] * count
    assert found[count:] == [False] * (len(found) - count)


def _convolutions(*channels):
    """Return a graph of 3x3 convolutions, whose nodes have no names, for inputs of 32 x 32."""
    random = np.random.default_rng(0)
    pairs = list(enumerate(itertools.pairwise(channels)))
    shapes = {f"w_{i}": (out, into, 3, 3) for i, (into, out) in pairs}
    values = ["pixel_values", *(f"maps_{i}" for i, _ in pairs)]
    nodes = [
        helper.make_node("Conv", [values[i], f"w_{i}"], [values[i + 1]], pads=[1] * 4)
        for i, _ in pairs
    ]
    nodes.append(helper.make_node("GlobalAveragePool", [values[-1]], ["means"]))
    nodes.append(helper.make_node("Flatten", ["means"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", channels[-1]])],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("channels", "count"),
    [
        ([3, 64], 0),  # the only one is what there is to quantize
        ([3, 64, 32], 1),
        ([3, 8, 8, 8] + 15 * [16], 3),
        ([3, 16, 16, 16] + 15 * [8], 0),  # over a sixth of all multiplications
    ],
)
def test_the_number_of_convolutions_in_float32_depends_on_their_cost(channels, count):
    inputs = np.random.default_rng(1).normal(size=(8, 3, 32, 32)).astype(np.float32)
    found = _in_float32(quantize(_convolutions(*channels), "int8", inputs))
    assert found == [True] * count + [False] * (len(channels) - 1 - count)


def test_a_rare_value_does_not_widen_the_range():
    model, inputs = _convolutions(3, 64), np.random.default_rng(1).normal(size=(128, 3, 32, 32))
    inputs = inputs.astype(np.float32)
    inputs[64, 1, 16, 16] = 1000.0  # one of 393,216, of which one in 100,000 may lie outside
    scales = {t.name: t for t in quantize(model, "int8", inputs).graph.initializer}
    # From the smallest to the largest of the others are about 10 in at most 255 steps.
    assert numpy_helper.to_array(scales["pixel_values_scale"]) < 20 / 255


@pytest.mark.parametrize("name", ["resnet-20", "small-cnn"])
def test_the_logits_are_not_rounded(name, int8, pixels):
    logits = _run(int8(name), pixels)
    # In 8 bits they have one scale, so at most 256 values.
    assert len(np.unique(logits)) > 400


def test_ranges_come_from_the_inputs(int8, pixels):
    model = _logits("small-cnn")
    fitting, narrow = int8("small-cnn"), quantize(model, "int8", pixels * 0.01)
    expected = _run(model, pixels)
    errors = [np.abs(_run(q, pixels) - expected).max() for q in (fitting, narrow)]
    assert errors[0] < errors[1]


def test_the_same_inputs_give_the_same_bytes(int8, pixels):
    assert serialize(int8("small-cnn")) == serialize(quantize(_logits("small-cnn"), "int8", pixels))


def test_the_original_graph_is_left_unchanged(pixels):
    model = _logits("small-cnn")
    before = serialize(model)
    for kind in ("int8", "fp16", "int8-dynamic"):
        quantize(model, kind, pixels)
    assert serialize(model) == before


@pytest.mark.parametrize("kind", ["int8-dynamic", "int4"])
def test_a_graph_with_nothing_to_quantize_is_refused(kind):
    with pytest.raises(GraphError, match=rf"--quantize {kind} makes smaller, got .*Conv"):
        quantize(_logits("resnet-20"), kind)


def test_int8_without_inputs_is_refused():
    with pytest.raises(GraphError, match="expected inputs to fix the ranges"):
        quantize(_logits("small-cnn"), "int8")


def test_an_error_of_the_quantizer_is_one_line():
    broken = copy_model(_logits("small-cnn"))
    broken.graph.node.append(helper.make_node("NoSuchOperator", ["logits"], ["more"]))
    with pytest.raises(GraphError, match="--quantize int8") as error:
        quantize(broken, "int8", np.zeros((2, 3, 16, 16), np.float32))
    assert "\n" not in str(error.value)
