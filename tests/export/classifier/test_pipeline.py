"""Exports of checkpoints: the bundle decides as the model does, describes itself, and is whole."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.cli import main
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import SettingError
from export.__main__ import COMMANDS
from export.classifier.preprocessing import fuse_preprocessing
from export.commands.build import BuildSettings
from export.commands.inspect import InspectSettings, describe, inspect
from export.commands.retune import RetuneSettings
from export.errors import OutputError, PreprocessingError
from export.session import open_graph
from train.models import Checkpoint, build, open_checkpoint, save


def pass_through():
    """A model whose logits are its pixel_values, to inspect the fused preprocessing."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = ["batch", 3, "h", "w"]
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["pixel_values"], ["out"])],
            "model",
            [helper.make_tensor_value_info("pixel_values", kind, shape)],
            [helper.make_tensor_value_info("out", kind, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def smooth_picture(height, width):
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / 9 + k) + np.cos(columns / 7 - k) for k in range(3)]
    return np.round((np.stack(channels, -1) + 2) * 63.75).astype(np.uint8)


PROCESSORS = {
    "bilinear": ViTImageProcessor(size={"height": 24, "width": 20}, resample=2),
    "bicubic": ViTImageProcessor(size={"height": 24, "width": 20}, resample=3),
    "shortest edge and crop": CLIPImageProcessor(
        size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20}
    ),
    "crop_pct": ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875),
    "no normalisation": ViTImageProcessor(size={"height": 24, "width": 24}, do_normalize=False),
}


@pytest.mark.parametrize("size", [(24, 24), (61, 37), (33, 50), (15, 13)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_fused_preprocessing_is_the_processors(name, size):
    processor = PROCESSORS[name]
    picture = smooth_picture(*size)
    model = pass_through()
    fuse_preprocessing(model, processor, (24, 24))
    (pixels,) = open_graph(model).run(None, {contract.IMAGE: picture[None]})
    expected = processor(picture, return_tensors="np")["pixel_values"]
    settings = processor.to_dict()
    step = 1 / 255 / (min(settings["image_std"]) if settings["do_normalize"] else 1)
    assert pixels.shape == expected.shape
    # Pillow rounds to 8 bits after each of its two passes, the graph once.
    assert np.abs(pixels - expected).max() <= 2.001 * step


def test_a_processor_that_is_not_handled_is_refused_by_name():
    processor = ViTImageProcessor(resample=1)  # Lanczos
    with pytest.raises(PreprocessingError, match="resample"):
        fuse_preprocessing(pass_through(), processor, (8, 8))


def test_the_bundle_decides_as_the_checkpoint_does(bundle, small_checkpoint, pictures):
    model = EdgeModel.open(bundle)
    logits = open_checkpoint(small_checkpoint).predict(pictures).astype(np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    confidence = p.max(-1) / p.sum(-1)
    gated = model(pictures)
    np.testing.assert_array_equal(gated.prediction, logits.argmax(-1))
    np.testing.assert_allclose(gated.confidence, confidence, atol=1e-5)
    clear = np.abs(confidence - model.threshold) > 1e-5
    np.testing.assert_array_equal(gated.defer[clear], confidence[clear] < model.threshold)


def test_graph_and_bundle_json_say_the_same(bundle):
    record = json.loads((bundle / "bundle.json").read_text())
    (entry,) = [
        p for p in onnx.load(bundle / "model.onnx").metadata_props if p.key == contract.METADATA_KEY
    ]
    assert json.loads(entry.value) == record["metadata"]
    assert record["verification"]["graph"]["decisions_differing"] == 0


def test_inspect_shows_the_names_of_a_stranger_s_bundle_cleaned(bundle, monkeypatch, capsys):
    read = read_bundle(bundle)
    metadata = dataclasses.replace(read.metadata, labels=("\x1b[2J\n", *read.metadata.labels[1:]))
    strange = dataclasses.replace(read, metadata=metadata)
    monkeypatch.setattr("export.commands.inspect.read_bundle", lambda *_: strange)
    for as_json in (False, True):
        inspect(InspectSettings(bundle=bundle, json=as_json))
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert ("u001b[2J\\n" if as_json else "x1b[2J\\n, ") in out


def test_inspect_explains_the_threshold(bundle):
    text = " ".join(describe(read_bundle(bundle)))
    assert "to defer at most 30.0% of the inputs" in text
    assert "of 359 inputs (validation of digits)" in text
    assert "an input below it (or NaN) is deferred" in text


def test_retune_changes_the_threshold_alone(bundle, tmp_path, pictures):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    before = onnx.load(copy / "model.onnx")
    RetuneSettings(bundle=copy, threshold=2.0).run()
    assert EdgeModel.open(copy)(pictures).defer.all()
    after = onnx.load(copy / "model.onnx")
    assert after.graph.node == before.graph.node
    weights = [i for i in before.graph.initializer if i.name != contract.THRESHOLD]
    assert [i for i in after.graph.initializer if i.name != contract.THRESHOLD] == weights


@pytest.mark.usefixtures("fresh_traces")
def test_the_same_export_gives_the_same_bytes(bundle, small_checkpoint, tmp_path):
    BuildSettings(
        checkpoint=small_checkpoint, out=tmp_path / "b", calibrate="digits", target_deferral=0.3
    ).run()
    for name in ("model.onnx", "bundle.json"):
        assert (tmp_path / "b" / name).read_bytes() == (bundle / name).read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        BuildSettings(checkpoint=small_checkpoint, out=tmp_path / "b", threshold=0.5).run()


@pytest.mark.parametrize(
    "goal", [{}, {"threshold": 0.5, "calibrate": "digits"}, {"calibrate": "digits"}]
)
def test_contradictory_goals_are_refused(goal, tmp_path):
    with pytest.raises(SettingError):
        BuildSettings(checkpoint=tmp_path, out=tmp_path / "b", **goal)


@pytest.mark.slow
def test_transformers_own_classifier_exports(tmp_path):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    processor = ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875)
    model = ResNetForImageClassification(config).eval()
    labels = tuple(config.id2label.values())
    save(Checkpoint(model, processor, labels, None), tmp_path / "model")
    BuildSettings(
        checkpoint=tmp_path / "model", out=tmp_path / "b", threshold=0.3, confidence="neg_entropy"
    ).run()
    gated = EdgeModel.open(tmp_path / "b")(smooth_picture(60, 40)[None])
    assert -np.log(4) - 1e-5 <= gated.confidence[0] <= 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("mobilenetv3-small", 32), ("resnet-50", 8)])
def test_the_papers_models_export_and_decide_as_the_checkpoint_does(name, side, tmp_path):
    save(build(name, labels=list("abcde"), image_size=(side, side)), tmp_path / "model")
    line = ["--checkpoint", str(tmp_path / "model"), "--out", str(tmp_path / "b")]
    line += ["--threshold", "0.5"]
    assert main("python -m export", COMMANDS, default=BuildSettings, argv=line) == 0
    record = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert record["verification"]["graph"]["decisions_differing"] == 0
    picture = smooth_picture(side, side)[None]
    gated = EdgeModel.open(tmp_path / "b")(picture)
    logits = open_checkpoint(tmp_path / "model").predict(picture).astype(np.float64)
    np.testing.assert_array_equal(gated.prediction, logits.argmax(-1))
    confidence = np.exp(logits.max(-1)) / np.exp(logits).sum(-1)
    np.testing.assert_allclose(gated.confidence, confidence, atol=1e-5)
