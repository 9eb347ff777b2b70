"""Bundles with a second look: they decide as PyTorch does on two views, and state the cost."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tools.foreign_models import logits_graph
from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

from edge_runtime import BundleError, Cascade, EdgeModel, contract
from edge_runtime.bundle import file_sha256, read_bundle
from edge_runtime.contract import SecondLook
from edge_runtime.errors import SettingError
from export.bundle import write_bundle
from export.classifier.gate import append_gate
from export.classifier.second_look import set_band
from export.classifier.verification import verify_graph
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings
from export.errors import VerificationError
from export.sources.reference import Gate, checkpoint_reference
from train import data
from train.models import Checkpoint, open_checkpoint, save

INF, NAN = float("inf"), float("nan")
DIGITS = {"calibrate": "digits", "target_deferral": 0.3, "second_look": "mirror"}


@pytest.fixture(scope="module")
def look_bundle(small_checkpoint, tmp_path_factory):
    """The bundle of `conftest`, with a second look at 10 ranks on either side."""
    path = tmp_path_factory.mktemp("looks") / "bundle"
    BuildSettings(checkpoint=small_checkpoint, out=path, **DIGITS).run()
    return path


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").test.array()


def two_views(checkpoint, pictures):
    """Return PyTorch's (prediction, first, second) of pictures and their mirror images."""
    model = open_checkpoint(checkpoint)
    pixels = model.pixel_values(list(pictures))
    with torch.inference_mode():
        one, two = (model.model(pixel_values=p).logits.double() for p in (pixels, pixels.flip(3)))
    first, prediction = one.softmax(-1).max(-1)
    second = two.softmax(-1).gather(-1, prediction[:, None])[:, 0]
    return prediction.numpy(), first.numpy(), second.numpy()


def test_a_bundle_decides_as_pytorch_does_on_two_views(look_bundle, small_checkpoint, digits):
    model = EdgeModel.open(look_bundle)
    low, high = SecondLook.from_fields(model.metadata.second_look).limits
    prediction, first, second = two_views(small_checkpoint, digits)
    inside = (first >= low) & (first <= high)
    assert 0.1 < inside.mean() < 0.3
    expected = np.where(inside, (first + second) / 2, first)
    gated = model(digits)
    clear = (np.abs(first - low) > 1e-5) & (np.abs(first - high) > 1e-5)
    np.testing.assert_array_equal(gated.prediction, prediction)
    np.testing.assert_allclose(gated.confidence[clear], expected[clear], atol=1e-5)
    clear &= np.abs(expected - model.threshold) > 1e-5
    np.testing.assert_array_equal(gated.defer[clear], expected[clear] < model.threshold)
    # The second look matters: without it other inputs would be deferred.
    assert (gated.defer != (first < model.threshold)).any()


def test_the_cascade_runs_it_unchanged(look_bundle, digits):
    pictures = digits[:60]
    together = EdgeModel.open(look_bundle)(pictures)
    cascade = Cascade.open(look_bundle)
    for answers in (cascade.batch(pictures), [cascade(picture) for picture in pictures]):
        assert [a.prediction for a in answers] == together.prediction.tolist()
        np.testing.assert_allclose([a.confidence for a in answers], together.confidence, atol=1e-6)
        clear = np.abs(together.confidence - read_bundle(look_bundle).metadata.threshold) > 1e-6
        deferred = np.array([a.deferred for a in answers])
        np.testing.assert_array_equal(deferred[clear], together.defer[clear])


def test_weights_are_stored_once(bundle, look_bundle):
    plain, twice = (onnx.load(b / "model.onnx").graph for b in (bundle, look_bundle))
    names = {t.name for t in plain.initializer}
    limits = {contract.SECOND_LOOK_LOW, contract.SECOND_LOOK_HIGH}
    assert {t.name for t in twice.initializer} == names | limits
    (branches,) = [n for n in twice.node if n.op_type == "If"]
    inner = [t for a in branches.attribute for t in a.g.initializer]
    assert sum(numpy_helper.to_array(t).size for t in inner) < 10


def test_calibration_accounts_for_the_second_look(look_bundle, small_checkpoint):
    metadata = read_bundle(look_bundle).metadata
    split = data.load("digits").validation
    gated = EdgeModel.open(look_bundle)(split.array())
    record, look = metadata.calibration, SecondLook.from_fields(metadata.second_look)
    # Row for row the same batches as in calibration, so the same bits.
    assert gated.defer.sum() <= np.floor(0.3 * len(split))
    assert gated.defer.mean() == pytest.approx(record["achieved"], abs=1.5 / len(split))
    ordered = np.sort(two_views(small_checkpoint, split.array())[1])
    n = len(split)  # 359: ranks 71.8 to 143.6, so places 71 to 143
    np.testing.assert_allclose(look.limits, ordered[[71, 143]], atol=1e-6)
    assert (look.view, look.band, look.share) == ("mirror", 0.1, pytest.approx(73 / n))


def test_graph_and_bundle_json_agree_on_the_second_look(look_bundle):
    record = json.loads((look_bundle / "bundle.json").read_text())
    model = onnx.load(look_bundle / "model.onnx")
    (entry,) = [p for p in model.metadata_props if p.key == contract.METADATA_KEY]
    assert json.loads(entry.value) == record["metadata"]
    fields = record["metadata"]["second_look"]
    assert set(fields) == {"view", "low", "high", "band", "share"}
    limits = {
        t.name: float(numpy_helper.to_array(t)) for t in model.graph.initializer if not t.dims
    }
    assert limits[contract.SECOND_LOOK_LOW] == fields["low"]
    assert limits[contract.SECOND_LOOK_HIGH] == fields["high"]
    assert record["metadata"]["confidence_range"] == [0.05, 1.0]  # of 0.1, and nothing mirrored


def test_inspect_explains_the_second_look_and_its_cost(look_bundle):
    look = SecondLook.from_fields(read_bundle(look_bundle).metadata.second_look)
    text = " ".join(describe(read_bundle(look_bundle)))
    assert f"first confidence is from {look.low:.6g} to {look.high:.6g} runs through" in text
    assert "as mirror view" in text
    assert "20.3% of the calibration inputs needed it, 1.20 passes per input" in text


def test_the_same_export_gives_the_same_bytes(look_bundle, small_checkpoint, tmp_path):
    BuildSettings(checkpoint=small_checkpoint, out=tmp_path / "b", **DIGITS).run()
    for name in ("model.onnx", "bundle.json"):
        assert (tmp_path / "b" / name).read_bytes() == (look_bundle / name).read_bytes()


def test_an_empty_band_is_the_plain_gate(bundle, small_checkpoint, tmp_path):
    BuildSettings(checkpoint=small_checkpoint, out=tmp_path / "b", band=0.0, **DIGITS).run()
    for name in ("model.onnx", "bundle.json"):
        assert (tmp_path / "b" / name).read_bytes() == (bundle / name).read_bytes()


@pytest.mark.parametrize("preprocessing", ["fused", "none"])
def test_a_band_without_limits_averages_every_input(
    preprocessing, small_checkpoint, digits, tmp_path
):
    BuildSettings(
        checkpoint=small_checkpoint,
        out=tmp_path / "b",
        threshold=0.1,
        second_look="mirror",
        band=INF,
        preprocessing=preprocessing,
    ).run()
    bundle = read_bundle(tmp_path / "b")
    assert bundle.metadata.second_look == {
        "view": "mirror",
        "low": None,
        "high": None,
        "band": 1.0,
        "share": 1.0,
    }
    assert "every input runs through the model twice" in " ".join(describe(bundle))
    assert "cost: two passes per input" in describe(bundle)
    inputs = digits
    if preprocessing == "none":
        inputs = open_checkpoint(small_checkpoint).pixel_values(list(digits)).numpy()
    _, first, second = two_views(small_checkpoint, digits)
    confidence = EdgeModel(bundle)(inputs).confidence
    np.testing.assert_allclose(confidence, (first + second) / 2, atol=1e-5)


def test_retune_moves_threshold_and_band_as_a_new_export_would(
    look_bundle, small_checkpoint, tmp_path, capsys
):
    copy = shutil.copytree(look_bundle, tmp_path / "copy")
    goal = {"calibrate": "digits", "target_deferral": 0.1}
    RetuneSettings(bundle=copy, **goal).run()
    assert "keeps its band" not in capsys.readouterr().out
    BuildSettings(checkpoint=small_checkpoint, out=tmp_path / "new", **{**DIGITS, **goal}).run()
    assert (copy / "model.onnx").read_bytes() == (tmp_path / "new" / "model.onnx").read_bytes()
    moved = read_bundle(copy).metadata
    assert moved == read_bundle(tmp_path / "new").metadata
    assert moved.second_look["low"] is None  # rank 0.1 - 0.1
    RetuneSettings(bundle=copy, calibrate="digits", target_deferral=0.3).run()
    assert (copy / "bundle.json").read_bytes() == (look_bundle / "bundle.json").read_bytes()


def test_a_threshold_by_hand_keeps_the_band_with_a_note(look_bundle, tmp_path, capsys):
    copy = shutil.copytree(look_bundle, tmp_path / "copy")
    RetuneSettings(bundle=copy, threshold=0.5).run()
    assert "the second look keeps its band" in capsys.readouterr().out
    before, after = read_bundle(look_bundle).metadata, read_bundle(copy).metadata
    assert (after.threshold, after.calibration) == (0.5, None)
    assert after.second_look == before.second_look


def test_a_bundle_with_weights_in_a_file_of_their_own_is_retuned(look_bundle, tmp_path):
    copy = shutil.copytree(look_bundle, tmp_path / "copy")
    model = onnx.load(copy / "model.onnx")
    onnx.save(
        model, copy / "model.onnx", save_as_external_data=True, location="w", size_threshold=100
    )
    record = json.loads((copy / "bundle.json").read_text())
    record["files"] = {name: file_sha256(copy / name) for name in ("model.onnx", "w")}
    (copy / "bundle.json").write_text(json.dumps(record))
    RetuneSettings(bundle=copy, calibrate="digits", target_deferral=0.3).run()
    assert (copy / "w").is_file()
    assert read_bundle(copy).metadata == read_bundle(look_bundle).metadata


def test_verify_compares_both_views(look_bundle, small_checkpoint, capsys):
    VerifySettings(bundle=look_bundle, data="digits", against=small_checkpoint).run()
    assert "decision flips             0.0000" in capsys.readouterr().out


def test_a_graph_with_another_band_than_its_metadata_is_refused(
    look_bundle, small_checkpoint, digits
):
    checkpoint = open_checkpoint(small_checkpoint)
    metadata = read_bundle(look_bundle).metadata
    look = SecondLook.from_fields(metadata.second_look)
    gate = Gate(metadata.confidence_kind, metadata.threshold, look)
    expected = checkpoint_reference(checkpoint, digits, gate)
    feeds = {"pixel_values": checkpoint.pixel_values(list(digits)).numpy()}
    model = logits_graph(checkpoint, (8, 8))
    append_gate(model, kind=gate.kind, threshold=gate.threshold, view=contract.MIRROR)
    set_band(model, *look.limits)
    assert verify_graph(model, feeds, expected)["confidence_difference_max"] < 1e-5
    set_band(model, INF, -INF)
    with pytest.raises(VerificationError, match="decisions of 809 differ"):
        verify_graph(model, feeds, expected)


@pytest.mark.slow
def test_digits_of_any_size_are_looked_at_twice_behind_fused_preprocessing(tmp_path, generator):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    processor = ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875)
    model = ResNetForImageClassification(config).eval()
    labels = tuple(config.id2label.values())
    save(Checkpoint(model, processor, labels, None), tmp_path / "model")
    BuildSettings(
        checkpoint=tmp_path / "model",
        out=tmp_path / "b",
        threshold=0.3,
        second_look="mirror",
        band=1.0,
    ).run()
    edge = EdgeModel.open(tmp_path / "b")
    for height, width in ((60, 40), (33, 57)):
        # Bright on one side, so that the mirror image is another picture.
        ramp = np.linspace(0, 255, width)[:, None] * generator.random((2, height, 1, 3))
        pictures = np.round(ramp).astype(np.uint8)
        _, first, second = two_views(tmp_path / "model", pictures)
        confidence = edge(pictures).confidence
        np.testing.assert_allclose(confidence, (first + second) / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"threshold": 0.5, "second_look": "mirror"}, "--calibrate DATA with --second-look"),
        ({"threshold": 0.5, "second_look": "mirror", "band": 0.3}, "--band 1 looks twice"),
        ({"threshold": 0.5, "band": 0.3}, "--second-look VIEW with --band"),
        ({**DIGITS, "band": -0.1}, "--band at least 0, got -0.1"),
        ({**DIGITS, "band": NAN}, "a number as --band, got NaN"),
        ({**DIGITS, "confidence": "neg_entropy"}, "--confidence max_softmax with --second-look"),
    ],
)
def test_settings_that_contradict_a_second_look_are_refused(line, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        BuildSettings(checkpoint=tmp_path, out=tmp_path / "b", **line)


LOOK = {"view": "mirror", "low": 0.25, "high": None, "band": 0.1, "share": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"view": 3},
        {"low": "0.25"},
        {"high": True},
        {"band": 0},
        {"band": NAN},
        {"share": 1.5},
        {"share": None},
    ],
)
def test_an_invalid_second_look_is_refused(change):
    with pytest.raises(BundleError, match="expected second_look with view"):
        SecondLook.from_fields({**LOOK, **change})
    with pytest.raises(BundleError, match="expected second_look with view"):
        SecondLook.from_fields({k: v for k, v in LOOK.items() if k not in change})


def test_a_view_that_is_not_known_here_is_opaque(look_bundle, tmp_path, digits, capsys):
    before = read_bundle(look_bundle)
    look = {**before.metadata.second_look, "view": "infrared", "lens_mm": 35}
    metadata = dataclasses.replace(before.metadata, second_look=look)
    write_bundle(tmp_path / "b", onnx.load(before.graph), metadata, before.verification)
    model = EdgeModel.open(tmp_path / "b")
    assert model.metadata.second_look == look
    np.testing.assert_array_equal(
        model(digits).confidence, EdgeModel.open(look_bundle)(digits).confidence
    )
    assert "as infrared view" in " ".join(describe(read_bundle(tmp_path / "b")))
