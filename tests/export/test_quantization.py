"""Quantized graphs: smaller, near the float ones, and the gate behind them in float32."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.errors import GraphError
from export.gate import append_gate
from export.quantization import quantize
from export.session import open_graph
from export.sources.checkpoint import image_graph

pytestmark = pytest.mark.slow


def _logits(name, size=16):
    from train.models import build

    checkpoint = build(name, labels=[str(i) for i in range(10)], image_size=(size, size), seed=2)
    return image_graph(checkpoint, (size, size))


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
    return image_graph(Checkpoint(model, processor, labels, None), (16, 16))


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
        (_transformer, "int8-dynamic", 3.0, 0.05),
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


def test_the_gate_behind_it_stays_in_float32(pixels):
    quantized = quantize(_logits("resnet-20"), "int8", pixels)
    append_gate(quantized, kind="max_softmax", threshold=0.2)
    types = {o.name: o.type.tensor_type.elem_type for o in quantized.graph.output}
    assert types["confidence"] == TensorProto.FLOAT
    many = np.random.default_rng(1).normal(size=(2000, 3, 16, 16)).astype(np.float32)
    _, confidence, _ = open_graph(quantized).run(None, {"pixel_values": many})
    # Quantized with the rest it would have at most 256.
    assert len(np.unique(confidence)) > 1000


def test_ranges_come_from_the_inputs_that_are_given(pixels):
    model = _logits("resnet-20")
    fitting, narrow = (quantize(model, "int8", pixels * scale) for scale in (1.0, 0.01))
    expected = _run(model, pixels)
    errors = [np.abs(_run(q, pixels) - expected).max() for q in (fitting, narrow)]
    assert errors[0] < errors[1]


def test_the_same_inputs_give_the_same_bytes(pixels):
    model = _logits("small-cnn")
    first, second = (quantize(model, "int8", pixels) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_the_graph_that_came_is_left_as_it_was(pixels):
    model = _logits("small-cnn")
    before = model.SerializeToString(deterministic=True)
    for kind in ("int8", "fp16", "int8-dynamic"):
        quantize(model, kind, pixels)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("kind", ["int8-dynamic", "int4"])
def test_nothing_to_quantize_is_said(kind):
    with pytest.raises(GraphError, match=rf"--quantize {kind} makes smaller.*Conv"):
        quantize(_logits("resnet-20"), kind)


def test_int8_without_inputs_is_refused():
    with pytest.raises(GraphError, match="expected inputs to fix the ranges"):
        quantize(_logits("small-cnn"), "int8")


def test_what_the_quantizer_cannot_take_is_one_line():
    broken = _logits("small-cnn")
    broken.graph.node.append(onnx.helper.make_node("NoSuchOperator", ["logits"], ["more"]))
    with pytest.raises(GraphError, match="--quantize int8") as error:
        quantize(broken, "int8", np.zeros((2, 3, 16, 16), np.float32))
    assert "\n" not in str(error.value)
