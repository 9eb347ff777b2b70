"""Goals through the commands: build, retune, and the descriptions of inspect."""

import re

import numpy as np
import pytest

from edge_runtime.bundle import read_bundle
from edge_runtime.edge_model import EdgeModel
from edge_runtime.errors import SettingError
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.commands.retune import RetuneSettings
from export.data import load_split
from export.errors import CalibrationError
from export.session import run_images


def _export(checkpoint, out, **goal):
    BuildSettings(checkpoint=checkpoint, out=out, calibrate="digits", **goal).run()
    return read_bundle(out)


def _on_validation(bundle_path):
    model = EdgeModel.open(bundle_path)
    split = load_split("digits", "validation", labels=model.labels, owner=bundle_path)
    prediction, _, defer = run_images(model.session, split.inputs)
    return prediction == split.labels, defer


@pytest.mark.slow
def test_a_target_accuracy_is_reached_on_the_data_it_was_chosen_on(models, tmp_path):
    bundle = _export(models[0], tmp_path / "b", target_accuracy=0.98)
    right, defer = _on_validation(tmp_path / "b")
    assert right[~defer].mean() >= 0.98
    assert right[~defer].size == bundle.metadata.calibration["answered"]
    assert any("no guarantee" in line for line in describe(bundle))


@pytest.mark.slow
def test_inspect_explains_a_guaranteed_risk_with_its_evidence(models, tmp_path):
    bundle = _export(models[0], tmp_path / "b", max_risk=0.2, delta=0.1)
    record = bundle.metadata.calibration
    assert record["p_value"] <= 0.1
    assert record["ordered_by"] + record["tested_on"] == record["n"]
    text = "\n".join(describe(bundle))
    assert "with probability 0.9" in text
    assert "20.00%" in text
    assert f"{record['answered']} answered inputs with {record['wrong']} errors" in text
    _, defer = _on_validation(tmp_path / "b")
    assert defer.mean() == pytest.approx(record["achieved"])


@pytest.mark.slow
def test_a_guaranteed_harm_counts_what_only_one_model_knows(models, tmp_path):
    small, large = models
    bundle = _export(small, tmp_path / "b", max_harm=0.1, delta=0.1, large=large)
    record = bundle.metadata.calibration
    assert record["upper_bound"] <= 0.1
    assert record["lost"] / record["tested_on"] < record["upper_bound"] + 1e-12
    assert re.search(r"at most 10\.00% below that of M_L", "\n".join(describe(bundle)))


@pytest.mark.slow
def test_a_bundle_is_retuned_for_the_least_cost(models, tmp_path):
    _export(models[0], tmp_path / "b", target_deferral=0.5)
    RetuneSettings(bundle=tmp_path / "b", calibrate="digits", cloud_cost=1, error_cost=5).run()
    bundle = read_bundle(tmp_path / "b")
    right, defer = _on_validation(tmp_path / "b")
    cost = (defer + 5 * (~right & ~defer)).mean()
    assert bundle.metadata.calibration["cost"] == pytest.approx(cost)
    assert any("always right" in line for line in describe(bundle))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"calibrate": "digits"}, "got --calibrate"),
        ({"threshold": 0.5, "max_risk": 0.1}, "got --threshold and --max-risk"),
        (
            {"calibrate": "digits", "max_risk": 0.1, "target_deferral": 0.3},
            "got --calibrate --target-deferral --max-risk",
        ),
        ({"calibrate": "digits", "max_risk": 0.0}, r"--max-risk in \(0, 1\)"),
        ({"calibrate": "digits", "max_risk": 0.1, "delta": 1.0}, "--delta"),
        ({"calibrate": "digits", "target_deferral": 0.1, "delta": 0.1}, "with --delta"),
        ({"calibrate": "digits", "max_risk": 0.1, "split": "train"}, "fitted on these inputs"),
        ({"calibrate": "digits", "max_harm": 0.1}, "--large"),
        ({"calibrate": "digits", "cloud_cost": 1.0}, "together"),
        ({"calibrate": "digits", "cloud_cost": 1.0, "error_cost": 0.0}, "above 0"),
        ({"calibrate": "digits", "target_accuracy": 1.5}, "--target-accuracy"),
        ({"calibrate": "digits", "target_deferral": 0.3, "large": "x"}, "with --large"),
    ],
)
def test_contradictory_goals_are_refused(flags, says, tmp_path):
    with pytest.raises(SettingError, match=says):
        RetuneSettings(bundle=tmp_path, **flags)


def test_a_guarantee_with_a_band_is_refused(tmp_path):
    with pytest.raises(SettingError, match="--band 1"):
        BuildSettings(
            checkpoint=tmp_path,
            out=tmp_path,
            calibrate="digits",
            max_risk=0.1,
            second_look="mirror",
        )


@pytest.mark.slow
def test_mistaken_data_do_not_touch_the_bundle(models, tmp_path):
    _export(models[0], tmp_path / "b", target_deferral=0.5)
    before = {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()}
    with pytest.raises(CalibrationError, match=r"use about|no number"):
        RetuneSettings(bundle=tmp_path / "b", calibrate="digits", max_risk=1e-4).run()
    assert {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()} == before
    assert np.isfinite(read_bundle(tmp_path / "b").metadata.threshold)
