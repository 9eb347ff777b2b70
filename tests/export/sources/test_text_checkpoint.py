"""Text classifiers: the bundle and PyTorch decide the same about the same texts."""

import dataclasses
import filecmp
import importlib.util
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from tools.processes import refused_here
from tools.processor import SATURATES
from tools.texts import LABELS, LONGEST, make_tokenizer, write_classifier

from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from export.__main__ import COMMANDS
from export.commands.build import BuildSettings
from export.commands.inspect import InspectSettings, describe
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings
from export.errors import GraphError, LabelError, PreprocessingError, VerificationError
from export.exporters import optimum_knows
from export.session import run_bundle
from train.classifier.settings import DeferralHeadSettings
from train.data import load
from train.models import open_checkpoint, read_head

pytestmark = pytest.mark.slow

HAS_OPTIMUM = importlib.util.find_spec("optimum") is not None
GOAL = {"target_deferral": 0.3}
BY_OPTIMUM = ["--threshold", "0.5", "--exporter", "optimum"]
# Longer than the model takes, other scripts, unknown letters, and nothing but white space.
ODD = ["card " * 3 * LONGEST, "Żółw 天气 🙂", "\x00\t", " ", "CARD?!"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_classifier(folder / kind, kind) for kind in ("bert", "roberta", "gpt2")}


@pytest.fixture(scope="module")
def bundle(checkpoints, texts, tmp_path_factory):
    return export(checkpoints["bert"], tmp_path_factory.mktemp("bundles") / "bert", texts)


def export(checkpoint, out, data, **settings):
    goal = {"calibrate": str(data), **GOAL, **settings}
    BuildSettings(checkpoint=checkpoint, out=out, **goal).run()
    return out


def softmax(logits):
    shares = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def assert_as_pytorch(bundle, checkpoint, given):
    model = EdgeModel.open(bundle)
    gated = model(model.reader.batch(given))
    shares = softmax(open_checkpoint(checkpoint, kind="text").predict(given))
    np.testing.assert_array_equal(gated.prediction, shares.argmax(-1))
    np.testing.assert_allclose(gated.confidence, shares.max(-1), atol=1e-5)
    clear = np.abs(shares.max(-1) - model.threshold) > 1e-5
    np.testing.assert_array_equal(gated.defer[clear], (shares.max(-1) < model.threshold)[clear])


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_an_architecture_decides_as_in_pytorch(kind, checkpoints, texts, tmp_path):
    out = export(checkpoints[kind], tmp_path / kind, texts, exporter="torch")
    test = load(str(texts)).test
    assert_as_pytorch(out, checkpoints[kind], [*test.inputs, *ODD])
    model = EdgeModel.open(out)
    assert (model.metadata.task, model.labels) == ("text-classification", LABELS)
    # Alone, without padding, a text gets what it gets in company.
    together = model(model.reader.batch(ODD)).confidence
    alone = [float(model(model.reader.single(text)).confidence[0]) for text in ODD]
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_the_threshold_was_chosen_on_the_bundle_itself(bundle, texts):
    model, validation = EdgeModel.open(bundle), load(str(texts)).validation
    _, confidence, defer = run_bundle(model, validation.inputs)
    assert model.threshold in confidence
    assert defer.mean() == model.metadata.calibration["achieved"] <= 0.3
    assert "input: text str ['batch']" in describe(read_bundle(bundle))


@pytest.mark.skipif(not HAS_OPTIMUM, reason="optimum-onnx does not go with this transformers")
def test_optimum_and_torch_decide_alike_and_auto_takes_optimum(checkpoints, texts, tmp_path):
    made = {
        exporter: export(checkpoints["bert"], tmp_path / exporter, texts, exporter=exporter)
        for exporter in ("optimum", "torch", "auto")
    }
    test = load(str(texts)).test
    for name, out in made.items():
        assert_as_pytorch(out, checkpoints["bert"], [*test.inputs, *ODD])
        graph = onnx.load(out / "model.onnx").graph
        # optimum gives a BERT the input that this tokenizer leaves to its default.
        wanted = ["input_ids", "attention_mask", "token_type_ids"][: 2 if name == "torch" else 3]
        assert [value.name for value in graph.input[: len(wanted) + 1]] == [*wanted, "threshold"]


def test_optimum_is_not_taken_for_a_model_it_does_not_know(small_checkpoint):
    assert not optimum_knows(open_checkpoint(small_checkpoint))


@pytest.mark.skipif(not HAS_OPTIMUM, reason="optimum-onnx does not go with this transformers")
def test_optimum_refuses_an_unknown_model_in_one_line(small_checkpoint, tmp_path, capfd):
    line = ["build", "--checkpoint", small_checkpoint, "--out", tmp_path / "b", *BY_OPTIMUM]
    refused_here("export", COMMANDS, line, capfd, says="use --exporter torch")


@pytest.mark.skipif(HAS_OPTIMUM, reason="optimum-onnx is installed")
def test_missing_optimum_is_named(small_checkpoint, tmp_path, capfd):
    line = ["build", "--checkpoint", small_checkpoint, "--out", tmp_path / "b", *BY_OPTIMUM]
    refused_here("export", COMMANDS, line, capfd, says="gatekeeper-edge[optimum]")


@pytest.mark.parametrize("kind", ["fp16", "int8-dynamic"])
def test_a_quantized_text_classifier_is_calibrated_as_it_ships(
    kind, checkpoints, bundle, texts, tmp_path
):
    flips = 1.0 if SATURATES and kind == "int8-dynamic" else 0.1
    out = export(checkpoints["bert"], tmp_path / kind, texts, quantize=kind, max_flips=flips)
    sizes = [(path / "model.onnx").stat().st_size for path in (out, bundle)]
    # Of so small a graph the nodes themselves are a large part.
    assert sizes[0] < {"fp16": 0.8, "int8-dynamic": 0.65}[kind] * sizes[1]
    model, validation = EdgeModel.open(out), load(str(texts)).validation
    _, confidence, defer = run_bundle(model, validation.inputs)
    assert model.threshold in confidence
    assert len(np.unique(confidence)) > 200  # the gate is not quantized
    assert defer.mean() == model.metadata.calibration["achieved"]
    VerifySettings(bundle=out, data=str(texts), against=checkpoints["bert"], max_flips=flips).run()


@pytest.mark.usefixtures("fresh_traces")
def test_the_same_export_is_the_same_bytes(checkpoints, bundle, texts, tmp_path):
    again = export(checkpoints["bert"], tmp_path / "again", texts)
    names = ["bundle.json", "model.onnx", "tokenizer.json"]
    assert sorted(path.name for path in again.iterdir()) == names
    assert filecmp.cmpfiles(bundle, again, names, shallow=False)[0] == names


def test_weights_stored_in_half_precision_are_exported_in_float32(checkpoints, tmp_path):
    path = shutil.copytree(checkpoints["bert"], tmp_path / "half")
    model = open_checkpoint(path, kind="text").model
    for dtype in (torch.float16, torch.bfloat16):
        model.to(dtype).save_pretrained(path)
        assert open_checkpoint(path, kind="text").model.dtype == torch.float32
    BuildSettings(checkpoint=path, out=tmp_path / "b", threshold=0.5, exporter="torch").run()
    weights = onnx.load(tmp_path / "b" / "model.onnx").graph.initializer
    assert onnx.TensorProto.FLOAT in {tensor.data_type for tensor in weights}
    assert not {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16} & {
        tensor.data_type for tensor in weights
    }


def test_retune_keeps_the_tokenizer(checkpoints, texts, tmp_path, capsys):
    out = export(checkpoints["bert"], tmp_path / "b", texts)
    before = (out / "tokenizer.json").read_bytes()
    RetuneSettings(bundle=out, calibrate=str(texts), target_deferral=0.6).run()
    _, _, defer = run_bundle(EdgeModel.open(out), load(str(texts)).validation.inputs)
    assert 0.5 < defer.mean() <= 0.6
    assert (out / "tokenizer.json").read_bytes() == before
    VerifySettings(bundle=out, data=str(texts), against=checkpoints["bert"]).run()
    assert "decision flips             0.0000" in capsys.readouterr().out


def test_verify_detects_another_checkpoint(bundle, texts, tmp_path):
    other = write_classifier(tmp_path / "other", seed=5)
    with pytest.raises(VerificationError, match="of the decisions to differ"):
        VerifySettings(bundle=bundle, data=str(texts), against=other).run()


def test_synthetic_texts_verify_an_export_without_data(checkpoints, tmp_path):
    out = tmp_path / "b"
    BuildSettings(checkpoint=checkpoints["roberta"], out=out, threshold=0.5, exporter="torch").run()
    found = json.loads((out / "bundle.json").read_text())["verification"]["graph"]
    assert (found["inputs"], found["predictions_differing"]) == (64, 0)
    assert found["confidence_difference_max"] < 1e-5


def test_a_deferral_head_of_a_text_classifier(checkpoints, texts, tmp_path):
    small = shutil.copytree(checkpoints["bert"], tmp_path / "small")
    large = write_classifier(tmp_path / "large", seed=5)
    DeferralHeadSettings(checkpoint=small, large=large, data=str(texts)).run()
    out = export(small, tmp_path / "b", texts, confidence="deferral_head", exporter="torch")
    validation = load(str(texts)).validation
    _, confidence, _ = run_bundle(EdgeModel.open(out), validation.inputs)
    checkpoint = open_checkpoint(small, kind="text")
    head = read_head(checkpoint)
    expected = head.confidence_of(checkpoint, validation.inputs)[1]
    # The head multiplies what float32 features differ by; a logistic curve has a slope of 1/4.
    atol = 1e-6 * np.abs(head.weight).sum() / 4
    assert atol < 5e-3  # how large the weights become depends on the processor
    np.testing.assert_allclose(confidence, expected, atol=atol)


def test_a_guarantee_for_a_text_classifier(checkpoints, texts, tmp_path, capsys):
    out, small = tmp_path / "b", checkpoints["bert"]
    line = {"checkpoint": small, "out": out, "calibrate": str(texts), "split": "test"}
    # The same model as M_L: answering on the device loses nothing, and the bound is small.
    BuildSettings(**line, max_harm=0.1, delta=0.1, large=small).run()
    record = read_bundle(out).metadata.calibration
    assert (record["goal"], record["n"]) == ("max_harm", 300)
    InspectSettings(bundle=out).run()
    says = "the accuracy of the cascade is at most 10.00% below that of M_L alone"
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"second_look": "mirror"}, "no --second-look for a text classifier"),
        ({"preprocessing": "none"}, "its bundle always holds the tokenizer"),
        ({"quantize": "int8"}, "int8-dynamic, int4 or fp16 for a text classifier, got int8"),
    ],
)
def test_settings_for_pictures_are_refused(settings, says, checkpoints, texts, tmp_path):
    with pytest.raises(GraphError, match=says):
        export(checkpoints["bert"], tmp_path / "b", texts, **settings)
    assert not (tmp_path / "b").exists()


def test_data_of_the_other_kind_are_refused(checkpoints, small_checkpoint, bundle, texts, tmp_path):
    with pytest.raises(LabelError, match=r"expected texts for .*, got images in digits"):
        export(checkpoints["bert"], tmp_path / "b", "digits")
    with pytest.raises(LabelError, match=r"expected images for .*, got texts in"):
        export(small_checkpoint, tmp_path / "b", texts)
    with pytest.raises(LabelError, match="got images in digits"):
        RetuneSettings(bundle=bundle, calibrate="digits", target_deferral=0.1).run()
    with pytest.raises(LabelError, match="got images in digits"):
        VerifySettings(bundle=bundle, data="digits").run()


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    path = write_classifier(tmp_path / "c")
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(path)
    with pytest.raises(PreprocessingError, match=r"a padding token in .*, got none"):
        BuildSettings(checkpoint=path, out=tmp_path / "b", threshold=0.5).run()


def test_a_tokenizer_that_works_in_python_alone_is_refused(checkpoints):
    from export.sources.text_checkpoint import standalone_tokenizer

    class Slow:
        is_fast = False

    with pytest.raises(PreprocessingError, match="got Slow, which works in Python alone"):
        standalone_tokenizer(Slow(), checkpoints["bert"])


def test_a_tokenizer_that_makes_other_tokens_is_detected(checkpoints, texts, tmp_path):
    from export.sources import open_source

    settings = BuildSettings(checkpoint=checkpoints["bert"], out=tmp_path / "b", threshold=0.5)
    with open_source(settings) as source:
        inputs = source.synthetic(0)
        ids = inputs.feeds["input_ids"].copy()
        ids[3, 1] += 1
        other = dataclasses.replace(inputs, feeds={**inputs.feeds, "input_ids": ids})
        with pytest.raises(VerificationError, match="the same input_ids from the bundle's"):
            source.reference(other, None)
