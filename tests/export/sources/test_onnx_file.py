"""Foreign ONNX files: half precision, quantized, old, or not a classifier."""

import os

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from tools.decisions import assert_decides_like, run_alone
from tools.foreign_models import Logits, cast_in_front, rewrite, show, write_onnx
from transformers import ViTImageProcessor

from edge_runtime import metrics
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from export.errors import GraphError
from train.models import open_checkpoint


def halved(model):
    return convert_float_to_float16(model)


def halved_inside(model):
    return convert_float_to_float16(model, keep_io_types=True)


class Reader(CalibrationDataReader):
    def __init__(self):
        self._left = iter(np.random.default_rng(0).normal(size=(8, 1, 3, 8, 8)).astype("f4"))

    def get_next(self):
        found = next(self._left, None)
        return None if found is None else {"input": found}


def quantized(path, target):
    quantize_static(str(path), str(target), Reader(), quant_format=QuantFormat.QDQ)
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(target).graph.node}
    return target


@pytest.mark.parametrize("change", [halved, halved_inside])
def test_half_precision(change, model, export, pixels, digits, tmp_path):
    path = rewrite(model, tmp_path / "half.onnx", change)
    dtype = np.float16 if change is halved else np.float32
    logits = run_alone(path, pixels.astype(dtype), "scores")
    bundle = export(path)
    graph = read_bundle(bundle).verification["graph"]
    assert graph["confidence_difference_max"] < 1e-6
    gated = EdgeModel.open(bundle)(digits)
    # The fused pixels differ in the last bit of float32, which may be the next number of float16.
    np.testing.assert_allclose(gated.confidence, metrics.max_softmax(logits), atol=1e-3)


def test_a_half_precision_input_stays_one_without_a_processor(
    model, export, without_data, tmp_path
):
    path = rewrite(model, tmp_path / "half.onnx", halved)
    opened = EdgeModel.open(export(path, **without_data))
    assert opened.metadata.input.dtype == "float16"
    assert opened(np.zeros((3, 3, 8, 8), np.float16)).prediction.shape == (3,)


def test_quantized(model, export, pixels, digits, tmp_path):
    path = quantized(model, tmp_path / "qdq.onnx")
    bundle = export(path)
    assert_decides_like(bundle, path, pixels, digits)
    confidence = EdgeModel.open(bundle)(digits).confidence
    assert confidence.dtype == np.float32


@pytest.mark.parametrize("kind", ["max_softmax", "neg_entropy"])
@pytest.mark.parametrize("opset", [13, 17])
def test_older_opsets_stay_as_they_are(opset, kind, module, export, digits, tmp_path):
    path = write_onnx(module, tmp_path / "old.onnx", opset=opset)
    ViTImageProcessor(do_resize=False).save_pretrained(tmp_path / "processor")
    bundle = export(path, confidence=kind, processor=tmp_path / "processor")
    (version,) = [o.version for o in onnx.load(bundle / "model.onnx").opset_import]
    assert version == opset
    pixels = ((digits / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32)
    logits = run_alone(path, pixels, "scores")
    confidence = {"max_softmax": metrics.max_softmax, "neg_entropy": metrics.neg_entropy}
    gated = EdgeModel.open(bundle)(digits)
    np.testing.assert_array_equal(gated.prediction, logits.argmax(-1))
    np.testing.assert_allclose(gated.confidence, confidence[kind](logits), atol=1e-5)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("is_quantized", [False, True])
def test_older_opsets_are_raised_for_a_processor_that_resizes(
    is_quantized, opset, module, export, digits, tmp_path
):
    path = write_onnx(module, tmp_path / "old.onnx", opset=opset)
    if is_quantized:
        path = quantized(path, tmp_path / "qdq.onnx")
    size = {"height": 8, "width": 8}
    ViTImageProcessor(size=size).save_pretrained(tmp_path / "processor")
    bundle = export(path, processor=tmp_path / "processor")
    (version,) = [o.version for o in onnx.load(bundle / "model.onnx").opset_import if not o.domain]
    assert version == 18
    processor = ViTImageProcessor.from_pretrained(tmp_path / "processor")
    made = processor(list(digits), return_tensors="np", input_data_format="channels_last")
    confidence = metrics.max_softmax(run_alone(path, made["pixel_values"], "scores"))
    gated = EdgeModel.open(bundle)(digits)
    # Of one size, but normalised in another order of float32 operations; int8 rounds on from there.
    assert np.abs(gated.confidence - confidence).max() < (2e-2 if is_quantized else 1e-5)


class Several(Logits):
    """Logits, and two more outputs."""

    def forward(self, x):
        logits = super().forward(x)
        return logits, logits[:, :3], x.mean((2, 3))


def test_several_candidates_are_named(small_checkpoint, export, refused, pixels, digits, tmp_path):
    module = Several(open_checkpoint(small_checkpoint))
    path = write_onnx(module, tmp_path / "several.onnx", names=("scores", "coarse", "mean"))
    refused(path, r"got several \(scores, coarse, mean\): name it with --logits")
    says = "got 'score': name another, e.g. of its outputs scores, coarse, mean"
    refused(path, says, logits="score")
    refused(path, "expected 3 labels", logits="coarse")
    bundle = export(path, logits="scores")
    assert_decides_like(bundle, path, pixels, digits)
    kept = {output.name for output in onnx.load(bundle / "model.onnx").graph.output}
    assert kept == {"prediction", "confidence", "defer"}


class Squashed(Logits):
    def __init__(self, checkpoint, squash):
        super().__init__(checkpoint)
        self.squash = squash

    def forward(self, x):
        return self.squash(super().forward(x))


def by_hand(z):
    e = torch.exp(z)
    return e / e.sum(-1, keepdim=True)


def test_the_logits_in_front_of_a_softmax_are_taken(
    small_checkpoint, export, pixels, digits, tmp_path, capsys
):
    module = Squashed(open_checkpoint(small_checkpoint), lambda z: torch.softmax(z, -1))
    path = write_onnx(module, tmp_path / "p.onnx")
    before = onnx.load(path).graph.node[-1].input[0]
    bundle = export(path)
    says = f"the model ends in Softmax of {before!r}"
    assert says in capsys.readouterr().out
    assert read_bundle(bundle).metadata.extra["head"] == f"logits; {says}"
    plain = rewrite(path, tmp_path / "plain.onnx", lambda m: show(m, before))
    assert_decides_like(bundle, plain, pixels, digits, output=before)


class Both(Logits):
    def forward(self, x):
        logits = super().forward(x)
        return logits.softmax(-1), logits


def test_of_logits_and_their_probabilities_the_logits_are_taken(
    small_checkpoint, model, export, pixels, digits, tmp_path
):
    module = Both(open_checkpoint(small_checkpoint))
    path = write_onnx(module, tmp_path / "both.onnx", names=("probabilities", "scores"))
    bundle = export(path)
    assert "head" not in read_bundle(bundle).metadata.extra
    assert_decides_like(bundle, model, pixels, digits)


def test_a_sigmoid_of_each_class_is_refused_as_several_labels(
    small_checkpoint, export, refused, pixels, digits, tmp_path
):
    path = write_onnx(
        Squashed(open_checkpoint(small_checkpoint), torch.sigmoid), tmp_path / "p.onnx"
    )
    refused(path, "a Sigmoid of each class by itself, .*: a gate .* one bundle for each label")
    before = onnx.load(path).graph.node[-1].input[0]
    plain = rewrite(path, tmp_path / "plain.onnx", lambda m: show(m, before))
    assert_decides_like(export(path, logits=before), plain, pixels, digits, output=before)


def test_probabilities_of_a_softmax_by_hand_are_found_in_the_values(
    small_checkpoint, refused, tmp_path
):
    module = Squashed(open_checkpoint(small_checkpoint), by_hand)
    path = write_onnx(module, tmp_path / "p.onnx")
    assert "Softmax" not in {node.op_type for node in onnx.load(path).graph.node}
    refused(path, "holds probabilities")


def test_log_probabilities_are_logits(small_checkpoint, export, pixels, digits, tmp_path):
    module = Squashed(open_checkpoint(small_checkpoint), lambda z: torch.log_softmax(z, -1))
    path = write_onnx(module, tmp_path / "p.onnx")
    assert_decides_like(export(path), path, pixels, digits)


def test_values_with_the_contracts_names_are_no_obstacle(model, export, pixels, digits, tmp_path):
    def rename(proto):
        names = {"input": "image", "scores": "confidence"}
        names[proto.graph.node[0].output[0]] = "threshold"
        for node in proto.graph.node:
            node.input[:] = [names.get(n, n) for n in node.input]
            node.output[:] = [names.get(n, n) for n in node.output]
        for value in (*proto.graph.input, *proto.graph.output):
            value.name = names.get(value.name, value.name)

    path = rewrite(model, tmp_path / "names.onnx", rename)
    assert_decides_like(export(path), path, pixels, digits, output="confidence")


def test_weights_that_are_also_inputs_are_no_obstacle(model, export, pixels, digits, tmp_path):
    def list_weights(proto):
        for tensor in proto.graph.initializer:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            proto.graph.input.insert(0, value)

    path = rewrite(model, tmp_path / "ir3.onnx", list_weights)
    bundle = export(path)
    inputs = {value.name for value in onnx.load(bundle / "model.onnx").graph.input}
    assert inputs == {"image", "threshold"}
    assert_decides_like(bundle, path, pixels, digits)


def with_operator(proto):
    proto.graph.node[1].op_type = "NoSuchOperator"


def with_opset(number):
    def change(proto):
        proto.opset_import[0].version = number

    return change


def with_two_inputs(proto):
    proto.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"]))


def with_domain(proto):
    proto.graph.node[1].domain = "org.example"
    proto.opset_import.append(helper.make_opsetid("org.example", 1))


def with_int32_in(proto):
    cast_in_front(proto, "numbers", TensorProto.INT32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_operator, "ONNX Runtime .* takes .* NoSuchOperator"),
        (with_opset(99), "ONNX Runtime .* takes .*Opset 99"),
        (with_domain, r"ONNX Runtime .* takes .* org\.example.*: export it with operators"),
        (with_two_inputs, r"expected one input .* got 2 \(input, more\): export"),
        (with_int32_in, "input of float32, float16 or uint8 .* numbers is INT32"),
    ],
)
def test_a_graph_that_cannot_be_gated_is_refused(change, says, model, refused, tmp_path):
    refused(rewrite(model, tmp_path / "other.onnx", change), says)


def test_a_fixed_batch_axis_of_several_rows_is_refused(module, refused, tmp_path):
    path = write_onnx(module, tmp_path / "fixed.onnx", batch=3)
    refused(path, "expected a free batch axis .* always takes 3")


def test_a_batch_axis_that_is_free_in_name_only_is_refused(model, refused, tmp_path):
    def tie(proto):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array([2, 10], np.int64), "two_rows")
        )
        proto.graph.node[-1].output[0] = "flat"
        proto.graph.node.append(helper.make_node("Reshape", ["flat", "two_rows"], ["scores"]))

    refused(rewrite(model, tmp_path / "tied.onnx", tie), "dynamic batch axis")


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x07" * 50])
def test_other_bytes_are_refused(content, refused, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(content)
    refused(tmp_path / "broken.onnx", "expected an ONNX (file|graph)")


def test_a_file_cut_short_or_missing_is_refused(model, refused, tmp_path):
    (tmp_path / "short.onnx").write_bytes(model.read_bytes()[:-500])
    refused(tmp_path / "short.onnx", "expected an ONNX graph|ONNX Runtime")
    refused(tmp_path / "none.onnx", "No such file")


def test_a_quantized_file_is_not_quantized_again(model, refused, tmp_path):
    path = quantized(model, tmp_path / "qdq.onnx")
    refused(path, "already quantized", quantize="int8")
    half = rewrite(model, tmp_path / "half.onnx", halved)
    refused(half, "half precision", quantize="int8")


def test_the_error_is_a_graph_error(model, export, tmp_path):
    with pytest.raises(GraphError):
        export(rewrite(model, tmp_path / "other.onnx", with_opset(99)))


def test_a_processor_that_is_a_pipe_is_refused_at_once(model, refused, tmp_path):
    os.mkfifo(tmp_path / "preprocessor_config.json")
    refused(model, "an image processor in .* no regular file", processor=tmp_path)
