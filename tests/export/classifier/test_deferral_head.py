"""Bundles with a deferral head: compared with numpy on torch's features, and refused otherwise."""

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tools.foreign_models import logits_graph
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
)

from edge_runtime import Cascade, contract
from edge_runtime.answer import Source
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from export.classifier.gate import append_gate
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings
from export.errors import GraphError, VerificationError
from export.session import open_graph
from export.sources.reference import Gate, checkpoint_reference
from train.errors import CheckpointError
from train.models import (
    HEAD_FILE,
    Checkpoint,
    DeferralHead,
    build,
    features_of,
    open_checkpoint,
    read_head,
    save,
    write_head,
)

KIND = contract.DEFERRAL_HEAD
NAN, INF = float("nan"), float("inf")


def random_head(width, seed=0):
    draws = np.random.default_rng(seed)
    weight = draws.normal(size=width + 1).astype(np.float32)
    record = {"n": 9, "gained": 3, "split": "validation", "data": "digits", "large": "runs/large"}
    return DeferralHead(weight, 0.25, record)


@pytest.fixture(scope="module")
def headed(small_checkpoint, tmp_path_factory):
    """Return the folder of a SmallCNN for digits with a head of random weights."""
    path = shutil.copytree(small_checkpoint, tmp_path_factory.mktemp("headed") / "small")
    write_head(random_head(64), path)
    return path


@pytest.fixture(scope="module")
def headed_bundle(headed, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "headed"
    BuildSettings(
        checkpoint=headed,
        out=path,
        calibrate="digits",
        target_deferral=0.3,
        confidence=KIND,
        emit="probabilities",
    ).run()
    return path


def by_numpy(checkpoint, images, head):
    """The definition, written out: 1 - sigmoid(w . (features, max softmax) + b) in float64."""
    features, logits = (a.astype(np.float64) for a in features_of(checkpoint, images))
    e = np.exp(logits - logits.max(-1, keepdims=True))
    logit = features @ head.weight[:-1].astype(np.float64) + head.bias
    logit += float(head.weight[-1]) * e.max(-1) / e.sum(-1)
    return 1 - 1 / (1 + np.exp(-logit)), e / e.sum(-1, keepdims=True)


def test_the_graph_gives_what_numpy_makes_of_torchs_features(headed, headed_bundle, pictures):
    checkpoint, model = open_checkpoint(headed), EdgeModel.open(headed_bundle)
    confidence, probabilities = by_numpy(checkpoint, pictures, read_head(checkpoint))
    gated = model(pictures)
    assert np.ptp(confidence) > 0.05
    np.testing.assert_allclose(gated.confidence, confidence, atol=1e-5)
    np.testing.assert_array_equal(gated.prediction, probabilities.argmax(-1))
    clear = np.abs(confidence - model.threshold) > 1e-5
    np.testing.assert_array_equal(gated.defer[clear], confidence[clear] < model.threshold)
    (given,) = model.session.run([contract.PROBABILITIES], {contract.IMAGE: pictures})
    np.testing.assert_allclose(given, probabilities, atol=1e-5)


def test_one_picture_is_decided_as_among_many(headed_bundle, pictures):
    model = EdgeModel.open(headed_bundle)
    together = model(pictures).confidence
    alone = [model(picture[None]).confidence[0] for picture in pictures[:5]]
    np.testing.assert_allclose(alone, together[:5], atol=1e-6)


def test_the_bundle_describes_the_head(headed_bundle):
    bundle = read_bundle(headed_bundle)
    assert bundle.metadata.confidence_kind == KIND
    assert bundle.metadata.confidence_range == (0.0, 1.0)
    assert bundle.metadata.contract_version == contract.CONTRACT_VERSION
    assert bundle.verification["graph"]["decisions_differing"] == 0
    assert bundle.verification["graph"]["confidence_difference_max"] < 1e-5
    text = "\n".join(describe(bundle))
    assert "confidence: deferral_head, from 0 to 1" in text
    assert "on 3 of them M_L (runs/large) is right and M_S wrong" in text


def test_a_cascade_answers_and_defers(headed_bundle, pictures):
    with Cascade.open(headed_bundle, cloud="localhost:1", deadline_s=0.2) as cascade:
        answers = cascade.batch(list(pictures))
    deferred = EdgeModel.open(headed_bundle)(pictures).defer
    assert 0 < deferred.sum() < len(pictures)
    assert [a.deferred for a in answers] == deferred.tolist()
    assert {a.source for a in answers} == {Source.EDGE, Source.EDGE_FALLBACK}


def test_verify_and_retune_take_the_bundle(headed, headed_bundle, pictures, tmp_path, capsys):
    VerifySettings(bundle=headed_bundle, data="digits", against=headed).run()
    assert "decision flips             0.0000" in capsys.readouterr().out
    copy = shutil.copytree(headed_bundle, tmp_path / "copy")
    RetuneSettings(bundle=copy, calibrate="digits", target_deferral=0.1).run()
    # The record says validation of digits, and so does the default of retune.
    assert "fitted on the same inputs (validation of digits)" in capsys.readouterr().out
    RetuneSettings(bundle=copy, calibrate="digits", target_deferral=0.1, split="test").run()
    assert "the same inputs" not in capsys.readouterr().out
    assert read_bundle(copy).metadata.calibration["achieved"] <= 0.1
    assert read_bundle(copy).metadata.extra == read_bundle(headed_bundle).metadata.extra
    RetuneSettings(bundle=copy, threshold=2.0).run()
    assert EdgeModel.open(copy)(pictures).defer.all()


def test_another_head_for_the_same_weights_does_not_verify(headed, headed_bundle, tmp_path):
    copy = shutil.copytree(headed, tmp_path / "copy")
    write_head(random_head(64, seed=1), copy)
    with pytest.raises(VerificationError, match="decisions to differ"):
        VerifySettings(bundle=headed_bundle, data="digits", against=copy).run()


@pytest.mark.parametrize("damage", ["missing", "stale"])
def test_a_missing_or_stale_head_is_refused(damage, headed, headed_bundle, tmp_path):
    copy = shutil.copytree(headed, tmp_path / "copy")
    if damage == "missing":
        (copy / HEAD_FILE).unlink()
    else:
        save(build("small-cnn", labels=list("0123456789"), image_size=(8, 8)), tmp_path / "other")
        shutil.copy2(tmp_path / "other" / "model.safetensors", copy)
    says = {"missing": "found none: fit one", "stale": "have changed since it was fitted"}[damage]
    with pytest.raises(CheckpointError, match=says):
        BuildSettings(checkpoint=copy, out=tmp_path / "b", threshold=0.5, confidence=KIND).run()
    with pytest.raises(CheckpointError, match=says):
        VerifySettings(bundle=headed_bundle, data="digits", against=copy).run()
    assert not (tmp_path / "b").exists()


def test_a_confidence_of_another_toolkit_is_no_comparison(small_checkpoint, pictures):
    with pytest.raises(VerificationError, match="or deferral_head, got 'margin'"):
        checkpoint_reference(open_checkpoint(small_checkpoint), pictures, Gate("margin", 0.5))


def linear_graph(layer, element=TensorProto.FLOAT, *, matrix=(4, 3), after=()):
    """A model whose input is its features: float [batch, 4] -> logits [batch, 3]."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weight = np.linspace(-1, 1, 12).reshape(matrix).astype(dtype)
    nodes, last = [layer], layer.output[0]
    for kind in after:
        inputs = [last, "c"] if kind == "Add" else [last]
        nodes.append(helper.make_node(kind, inputs, [f"{last}+"]))
        last = f"{last}+"
    return helper.make_model(
        helper.make_graph(
            nodes,
            "model",
            [helper.make_tensor_value_info("x", element, ["batch", 4])],
            [helper.make_tensor_value_info(last, element, ["batch", 3])],
            [
                numpy_helper.from_array(weight, "W"),
                numpy_helper.from_array(np.array([0.5, 0, -0.5], dtype), "c"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def gemm(**attributes):
    return helper.make_node("Gemm", ["x", "W", "c"], ["z"], **attributes)


MATMUL = helper.make_node("MatMul", ["x", "W"], ["z"])
GRAPHS = {
    "Gemm": lambda: linear_graph(gemm()),
    "Gemm, transposed": lambda: linear_graph(gemm(transB=1), matrix=(3, 4)),
    "MatMul": lambda: linear_graph(MATMUL),
    "MatMul, Add, Identity": lambda: linear_graph(MATMUL, after=("Add", "Identity")),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_spelling_of_a_linear_layer_is_found(name):
    model, head = GRAPHS[name](), random_head(4)
    logits = model.graph.output[0].name
    x = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    (z,) = open_graph(model).run([logits], {"x": x})
    append_gate(model, kind=KIND, threshold=0.5, head=head)
    confidence, defer = open_graph(model).run([contract.CONFIDENCE, contract.DEFER], {"x": x})
    np.testing.assert_allclose(confidence, head.confidence(x, z), atol=1e-6)
    np.testing.assert_array_equal(defer, confidence < 0.5)


def test_a_half_precision_model_has_its_head_in_float32():
    model, head = linear_graph(gemm(), TensorProto.FLOAT16), random_head(4)
    x = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float16)
    (z,) = open_graph(model).run(["z"], {"x": x})
    append_gate(model, kind=KIND, threshold=0.5, head=head)
    (confidence,) = open_graph(model).run([contract.CONFIDENCE], {"x": x})
    assert confidence.dtype == np.float32
    # A graph that hands its logits out rounds them to half precision, one that does not may not.
    np.testing.assert_allclose(confidence, head.confidence(x, z), atol=1e-4)


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("weighs", [True, False])
def test_what_is_not_a_number_defers(odd, rows, weighs):
    model, head = linear_graph(gemm()), random_head(4)
    if not weighs:  # a head that does not read what is odd must not answer for it
        head = DeferralHead(np.zeros(5, np.float32), -3.0, {})
    append_gate(model, kind=KIND, threshold=-1e30, head=head)
    session = open_graph(model)
    for row in range(rows):
        x = np.ones((rows, 4), np.float32)
        x[row, 2] = odd
        (defer,) = session.run([contract.DEFER], {"x": x})
        assert defer.tolist() == [r == row for r in range(rows)]


def variable_matrix():
    model = linear_graph(MATMUL)
    (weight,) = [t for t in model.graph.initializer if t.name == "W"]
    model.graph.initializer.remove(weight)
    model.graph.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3]))
    return model


ODD = {
    "an activation after the layer": (lambda: linear_graph(gemm(), after=("Relu",)), "node Relu"),
    "no constant matrix": (variable_matrix, "without a constant matrix"),
    "other features": (lambda: linear_graph(gemm(transB=1), matrix=(3, 4)), "of 5 features"),
    "no layer": (lambda: linear_graph(helper.make_node("Identity", ["x"], ["z"])), "got no layer"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_graph_without_such_a_layer_is_refused(name):
    make, says = ODD[name]
    head = random_head(5 if name == "other features" else 4)
    with pytest.raises(GraphError, match=f"{says}.*another --confidence"):
        append_gate(make(), kind=KIND, threshold=0.5, head=head)


def test_a_second_look_and_a_missing_head_are_refused():
    with pytest.raises(GraphError, match="max_softmax for a second look"):
        append_gate(
            linear_graph(gemm()), kind=KIND, threshold=0.5, head=random_head(4), view="mirror"
        )
    with pytest.raises(GraphError, match="a deferral head for deferral_head"):
        append_gate(linear_graph(gemm()), kind=KIND, threshold=0.5)


def hugging_face_resnet():
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    processor = ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875)
    model = ResNetForImageClassification(config).eval()
    return Checkpoint(model, processor, tuple(config.id2label.values()), None), (28, 28)


MODELS = {
    "resnet-20": lambda: (build("resnet-20", labels=list("abcd"), image_size=(8, 8)), (8, 8)),
    "mobilenetv3-small": lambda: (
        build("mobilenetv3-small", labels=list("abcd"), image_size=(32, 32)),
        (32, 32),
    ),
    "transformers' ResNet": hugging_face_resnet,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_features_of_other_models_are_found(name):
    checkpoint, size = MODELS[name]()
    pictures = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    features, _ = features_of(checkpoint, pictures)
    head = random_head(features.shape[1])
    graph = logits_graph(checkpoint, size)
    append_gate(graph, kind=KIND, threshold=0.5, head=head)
    pixels = checkpoint.pixel_values(pictures).numpy()
    (confidence,) = open_graph(graph).run([contract.CONFIDENCE], {"pixel_values": pixels})
    np.testing.assert_allclose(confidence, by_numpy(checkpoint, pictures, head)[0], atol=1e-5)
    onnx.checker.check_model(graph)
