"""A quantized export from end to end: calibrated and verified on the graph that ships."""

import json
import shutil

import numpy as np
import pytest
from tools.processor import needs_exact_int8

from edge_runtime import Cascade
from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import SettingError
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.commands.retune import RetuneSettings
from export.commands.verify import VerifySettings
from export.data import load_split
from export.errors import VerificationError
from export.session import run_images
from export.verification import least_sure

pytestmark = pytest.mark.slow

GOAL = {"calibrate": "digits", "target_deferral": 0.3}


@pytest.fixture(scope="module")
def quantized(models, tmp_path_factory):
    """Return (int8 bundle, float bundle) of the fitted M_S; the usual limit on flips holds."""
    folder = tmp_path_factory.mktemp("bundles")
    for kind in ("int8", "none"):
        BuildSettings(checkpoint=models[0], out=folder / kind, quantize=kind, **GOAL).run()
    return folder / "int8", folder / "none"


def _answers(path, split):
    model = EdgeModel.open(path)
    data = load_split("digits", split, labels=model.labels, owner=path)
    return run_images(model.session, data.inputs), data.labels


def test_the_threshold_is_that_of_the_quantized_graph(quantized):
    small, exact = (read_bundle(path).metadata for path in quantized)
    (_, confidence, defer), _ = _answers(quantized[0], "validation")
    assert small.threshold in confidence
    assert defer.mean() == small.calibration["achieved"]
    assert small.threshold != exact.threshold


def test_fresh_data_are_deferred_as_printed(quantized):
    record = read_bundle(quantized[0]).metadata.calibration
    (_, _, defer), _ = _answers(quantized[0], "test")
    low, high = record["interval"]
    # 809 fresh inputs scatter less than the 359 that the interval is for.
    assert low <= defer.mean() <= high


def test_the_recorded_figures_are_those_of_two_sessions(quantized):
    found = json.loads((quantized[0] / "bundle.json").read_text())["verification"]["quantization"]
    (p8, c8, d8), labels = _answers(quantized[0], "validation")
    (p, c, d), _ = _answers(quantized[1], "validation")
    assert found["decisions_differing"] == pytest.approx((d8 != d).mean())
    assert found["predictions_differing"] == pytest.approx((p8 != p).mean())
    assert found["confidence_difference_max"] == pytest.approx(np.abs(c8 - c).max())
    assert found["accuracy"] == pytest.approx((p8 == labels).mean())
    assert found["kind"] == "int8"
    assert found["bytes"] < found["bytes_float"]
    sizes = [(path / "model.onnx").stat().st_size for path in quantized]
    assert sizes[0] < 0.5 * sizes[1]


@needs_exact_int8
@pytest.mark.parametrize("split", ["validation", "test"])
def test_confidences_hardly_move(quantized, split):
    (_, c8, d8), _ = _answers(quantized[0], split)
    (_, c, d), _ = _answers(quantized[1], split)
    # 0.0008 and at most 0.5 %; ranges of smallest and largest value, without a layer in float32
    # and with logits of 8 bits, gave 0.0016 and 1.0 to 1.1 %.
    assert np.abs(c8 - c).mean() < 0.0012
    assert (d8 != d).mean() < 0.01


def test_inspect_and_the_runtime_take_it(quantized, pictures):
    assert "quantized: int8; the gate is float32" in describe(read_bundle(quantized[0]))
    with Cascade.open(quantized[0]) as cascade:
        answers = [cascade(picture) for picture in pictures]
    expected = EdgeModel.open(quantized[0])(pictures)
    assert [a.confidence for a in answers] == pytest.approx(list(expected.confidence))


def test_retune_keeps_the_weights(quantized, tmp_path):
    copy = shutil.copytree(quantized[0], tmp_path / "b")
    RetuneSettings(bundle=copy, calibrate="digits", target_deferral=0.1).run()
    assert read_bundle(copy).metadata.calibration["achieved"] <= 0.1
    assert read_bundle(copy).metadata.extra["quantization"] == "int8"


def test_verify_compares_at_the_same_deferral_ratio(quantized, models, capsys):
    VerifySettings(bundle=quantized[0], data="digits", against=models[0], max_flips=0.05).run()
    printed = capsys.readouterr().out.splitlines()
    lines = dict(line.rsplit(None, 1) for line in printed if not line.startswith("confidence"))
    (_, _, defer), _ = _answers(quantized[0], "test")
    (_, exact, _), _ = _answers(quantized[1], "test")
    # As many of the float model's least sure ones as the bundle defers.
    theirs = np.argsort(np.argsort(exact)) < defer.sum()
    assert float(lines["decision flips"]) == pytest.approx((theirs != defer).mean(), abs=2e-3)


def test_verify_takes_a_quantized_bundle_that_defers_everything(
    quantized, models, tmp_path, capsys
):
    copy = shutil.copytree(quantized[0], tmp_path / "b")
    RetuneSettings(bundle=copy, threshold=2.0).run()
    VerifySettings(bundle=copy, data="digits", against=models[0], max_flips=0.05).run()
    assert "deferral ratio             1.0000" in capsys.readouterr().out


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [2]), (2, [1, 2]), (4, [0, 1, 2, 3])])
def test_the_least_sure_are_selected_by_number(count, expected):
    found = least_sure(np.array([0.5, 0.1, np.nan, 0.5]), count)
    assert list(np.flatnonzero(found)) == expected


def test_too_many_flips_write_nothing(small_checkpoint, tmp_path):
    # Untrained, it is equally unsure of everything, so that the least shift flips decisions.
    with pytest.raises(VerificationError, match="flip by quantization"):
        BuildSettings(
            checkpoint=small_checkpoint, out=tmp_path / "b", quantize="int8", max_flips=0.0, **GOAL
        ).run()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"threshold": 0.5, "quantize": "int8"}, "--calibrate with --quantize"),
    ],
)
def test_quantization_needs_calibration_data(flags, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        BuildSettings(checkpoint=tmp_path, out=tmp_path / "b", **flags)


def test_a_second_look_runs_the_quantized_model_again(models, tmp_path):
    BuildSettings(
        checkpoint=models[0],
        out=tmp_path / "b",
        quantize="int8",
        second_look="mirror",
        max_flips=0.1,
        **GOAL,
    ).run()
    (_, confidence, defer), _ = _answers(tmp_path / "b", "validation")
    metadata = read_bundle(tmp_path / "b").metadata
    assert defer.mean() == pytest.approx(metadata.calibration["achieved"])
    assert metadata.second_look["share"] > 0
    assert len(np.unique(confidence)) > 300
