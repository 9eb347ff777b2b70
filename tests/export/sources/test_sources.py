"""A model decides the same whether it comes as a checkpoint, a program or an ONNX file."""

import functools
import shutil

import numpy as np
import pytest
import torch
from tools.foreign_models import GOAL, Logits, write_onnx, write_program
from tools.processes import contents

from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import SettingError
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings
from export.errors import LabelError, PreprocessingError
from train import data
from train.models import build, open_checkpoint, save

FOREIGN = ("program", "onnx")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The three forms of a SmallCNN that has learnt digits: setting -> path."""
    folder = tmp_path_factory.mktemp("trained")
    digits = data.load("digits")
    checkpoint = build("small-cnn", labels=digits.label_names, image_size=(8, 8), seed=5)
    learn(checkpoint, digits.train)
    save(checkpoint, folder / "checkpoint")
    module = Logits(open_checkpoint(folder / "checkpoint"))
    return {
        "checkpoint": folder / "checkpoint",
        "program": write_program(module, folder / "model.pt2"),
        "onnx": write_onnx(module, folder / "model.onnx"),
    }


def learn(checkpoint, split):
    torch.manual_seed(0)
    pixels = checkpoint.pixel_values([split.inputs[i] for i in range(len(split))])
    labels = torch.from_numpy(split.labels)
    optimizer = torch.optim.Adam(checkpoint.model.parameters(), 3e-3)
    checkpoint.model.train()
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(
            checkpoint.model(pixel_values=pixels).logits, labels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    checkpoint.model.eval()


def source(trained, kind):
    """Return the settings that name one of the three."""
    named = {kind: trained[kind]}
    return named if kind == "checkpoint" else {**named, "processor": trained["checkpoint"]}


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Return what gives the bundle of a kind and settings, which is made once."""
    folder = tmp_path_factory.mktemp("bundles")

    @functools.cache
    def export(kind, **settings):
        out = folder / "-".join([kind, *map(str, settings.values())])
        BuildSettings(**source(trained, kind), out=out, **GOAL, **settings).run()
        return out

    return export


@pytest.fixture(scope="module")
def bundles(trained, exported):
    return {kind: exported(kind) for kind in trained}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits").test


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_three_ways_give_the_same_decisions(kind, bundles, digits):
    expected, got = (EdgeModel.open(bundles[k])(digits.array()) for k in ("checkpoint", kind))
    assert (expected.prediction == digits.labels).mean() > 0.8  # it has learnt something
    assert 0.1 < expected.defer.mean() < 0.5
    np.testing.assert_array_equal(got.prediction, expected.prediction)
    np.testing.assert_array_equal(got.defer, expected.defer)
    np.testing.assert_allclose(got.confidence, expected.confidence, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["checkpoint", *FOREIGN])
@pytest.mark.usefixtures("fresh_traces")
def test_two_exports_in_different_folders_are_byte_identical(kind, bundles, trained, tmp_path):
    BuildSettings(**source(trained, kind), out=tmp_path / "else" / "where", **GOAL).run()
    assert contents(tmp_path / "else" / "where") == contents(bundles[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_bundle_keeps_nothing_of_the_place_it_was_made_at(kind, bundles, trained):
    for file in bundles[kind].iterdir():
        assert str(trained[kind].parent).encode() not in file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_the_other_commands_take_it(kind, bundles, tmp_path, trained, capsys):
    bundle = shutil.copytree(bundles[kind], tmp_path / "b")
    RetuneSettings(bundle=bundle, calibrate="digits", target_deferral=0.1).run()
    assert read_bundle(bundle).metadata.calibration["achieved"] <= 0.1
    assert any("at most 10.0%" in line for line in describe(read_bundle(bundle)))
    VerifySettings(bundle=bundle, data="digits", against=trained["checkpoint"]).run()
    assert "decision flips             0.0000" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "quantize"), [("program", "int8"), ("onnx", "int8"), ("onnx", "fp16")]
)
def test_it_is_quantized_like_a_checkpoint(kind, quantize, exported, digits):
    settings = {"quantize": quantize, "max_flips": 0.1}
    reference, bundle = (exported(k, **settings) for k in ("checkpoint", kind))
    record = read_bundle(bundle).verification["quantization"]
    assert record["bytes"] < record["bytes_float"]
    expected, got = (EdgeModel.open(b)(digits.array()) for b in (reference, bundle))
    # Two exporters' graphs of one model are not quantized at quite the same places.
    assert (got.defer == expected.defer).mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_it_looks_twice_like_a_checkpoint(kind, exported, tmp_path, digits):
    reference, bundle = (exported(k, second_look="mirror") for k in ("checkpoint", kind))
    expected, got = (EdgeModel.open(b)(digits.array()) for b in (reference, bundle))
    np.testing.assert_array_equal(got.defer, expected.defer)
    np.testing.assert_allclose(got.confidence, expected.confidence, rtol=0, atol=1e-5)
    copy = shutil.copytree(bundle, tmp_path / "copy")
    RetuneSettings(bundle=copy, calibrate="digits", target_deferral=0.2).run()
    assert EdgeModel.open(copy)(digits.array()).defer.mean() < got.defer.mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "emit"),
    [("checkpoint", "probabilities"), ("program", "logits"), ("onnx", "logits")],
)
def test_an_additional_output_is_the_models(kind, emit, trained, tmp_path, digits):
    threshold = {"threshold": 0.5} if kind == "checkpoint" else GOAL
    BuildSettings(**source(trained, kind), out=tmp_path / "b", emit=emit, **threshold).run()
    session = EdgeModel.open(tmp_path / "b").session
    (values,) = session.run([emit], {contract.IMAGE: digits.array()})
    expected = open_checkpoint(trained["checkpoint"]).predict(digits.inputs)
    if emit == "probabilities":
        expected = torch.from_numpy(expected).softmax(-1).numpy()
    np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_without_a_processor_the_bundle_takes_what_the_model_takes(kind, trained, tmp_path, digits):
    (tmp_path / "labels.txt").write_text("\n".join(digits.label_names) + "\n")
    named = {kind: trained[kind], "labels": tmp_path / "labels.txt"}
    BuildSettings(**named, out=tmp_path / "b", threshold=0.5).run()
    model = EdgeModel.open(tmp_path / "b")
    assert model.metadata.input.dtype == "float32"
    assert model.metadata.input.shape == ("batch", 3, 8, 8)
    checkpoint = open_checkpoint(trained["checkpoint"])
    gated = model(checkpoint.pixel_values(digits.array()).contiguous().numpy())
    expected = checkpoint.predict(digits.inputs).argmax(-1)
    np.testing.assert_array_equal(gated.prediction, expected)
    assert set(read_bundle(tmp_path / "b").verification) == {"graph"}


@pytest.mark.slow
def test_labels_are_those_of_the_data_a_file_or_a_config(trained, bundles, tmp_path):
    names = data.load("digits").label_names
    assert read_bundle(bundles["onnx"]).metadata.labels == names
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghia"))
    unique = ("a (0)", *"bcdefghi", "a (9)")
    expected = {tmp_path / "labels.txt": unique, trained["checkpoint"]: names}
    for number, (labels, wanted) in enumerate(expected.items()):
        out = tmp_path / str(number)
        BuildSettings(onnx=trained["onnx"], labels=labels, out=out, threshold=0.5).run()
        assert read_bundle(out).metadata.labels == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\nb\n", "expected 10 labels, one for each class of .*, got 2 in"),
        ("\n", "one label a line"),
    ],
)
def test_labels_that_do_not_fit_are_refused(text, says, trained, tmp_path):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(LabelError, match=says):
        BuildSettings(
            onnx=trained["onnx"],
            labels=tmp_path / "labels.txt",
            out=tmp_path / "b",
            threshold=0.5,
        ).run()
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_processor_of_other_pictures_is_refused(trained, tmp_path):
    save(build("small-cnn", labels=list("ab"), image_size=(16, 16)), tmp_path / "other")
    for folder, says in ((tmp_path / "other", r"makes \[1, 3, 16, 16\]"), (tmp_path, "not open")):
        settings = BuildSettings(onnx=trained["onnx"], processor=folder, out=tmp_path / "b", **GOAL)
        with pytest.raises(PreprocessingError, match=says):
            settings.run()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({}, "got none"),
        ({"checkpoint": "c", "onnx": "o"}, "got --checkpoint and --onnx"),
        ({"checkpoint": "c", "logits": "z"}, "--program or --onnx with --logits"),
        ({"checkpoint": "c", "labels": "l"}, "--program or --onnx with --labels"),
        ({"program": "p"}, "expected --labels FILE with --program and --threshold"),
        (
            {"program": "p", "labels": "l", "confidence": "deferral_head"},
            "expected --checkpoint with --confidence deferral_head",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(named, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        BuildSettings(**named, out=tmp_path / "b", threshold=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_calibration_data_without_a_processor_are_refused(kind, trained, tmp_path):
    with pytest.raises(SettingError, match="expected --processor DIR"):
        BuildSettings(**{kind: trained[kind]}, out=tmp_path / "b", **GOAL)
