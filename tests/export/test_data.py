"""A guarantee needs inputs that had no part in making the model; others are refused or noted."""

import json

import pytest

from edge_runtime.bundle import read_bundle
from export.commands.build import BuildSettings
from export.commands.inspect import describe
from export.commands.retune import RetuneSettings
from export.data import freshness_note, require_fresh
from export.errors import CalibrationError
from train.classifier.settings import TuneSettings
from train.models import Training, training_of

FITTED = {"training": Training("digits", ("train",), ("validation",)).as_record()}
HELD_OUT = {"training": Training("digits", ("train", "validation"), ("validation",)).as_record()}


def test_fresh_inputs_are_certified_without_a_note(tmp_path):
    for made_with in ({}, FITTED, HELD_OUT, {"training": "of another toolkit"}):
        require_fresh(made_with, "digits", "test")
        assert freshness_note(made_with, "digits", "test", certified=True) == ""
        require_fresh(made_with, str(tmp_path), "validation")
        assert freshness_note(made_with, str(tmp_path), "validation", certified=True) == ""


def test_inputs_that_fitted_weights_are_refused():
    with pytest.raises(CalibrationError, match="M_S was not fitted on, got validation of digits"):
        require_fresh(HELD_OUT, "digits", "validation")
    head = {"deferral_head": {"data": "./digits", "split": "validation"}}
    with pytest.raises(CalibrationError, match="the deferral head was not fitted on"):
        require_fresh(head, "digits", "validation")


def test_inputs_that_chose_the_model_are_noted_with_a_guarantee():
    require_fresh(FITTED, "digits", "validation")
    note = freshness_note(FITTED, "digits", "validation", certified=True)
    assert "validation of digits also decided when training stopped" in note
    assert freshness_note(FITTED, "digits", "validation", certified=False) == ""


@pytest.mark.parametrize(
    "text", ["", "[]", '"fit"', '{"settings": null}', '{"settings": {"data": 3}}', "{}"]
)
def test_a_training_record_of_another_tool_is_ignored(text, tmp_path):
    assert training_of(tmp_path) is None
    (tmp_path / "training.json").write_text(text)
    assert training_of(tmp_path) is None


@pytest.mark.slow
def test_a_certified_export_notes_the_inputs_it_rests_on(models, tmp_path, capsys):
    line = {"checkpoint": models[0], "calibrate": "digits", "max_risk": 0.2, "delta": 0.1}
    BuildSettings(out=tmp_path / "validation", **line).run()
    assert "also decided when training stopped" in capsys.readouterr().out
    BuildSettings(out=tmp_path / "test", split="test", **line).run()
    assert "training stopped" not in capsys.readouterr().out
    words = {n: "\n".join(describe(read_bundle(tmp_path / n))) for n in ("validation", "test")}
    assert "strictly the guarantee holds only for a model made without them" in words["validation"]
    assert "strictly" not in words["test"]
    RetuneSettings(bundle=tmp_path / "test", calibrate="digits", max_risk=0.2, delta=0.1).run()
    assert "also decided when training stopped" in capsys.readouterr().out
    assert read_bundle(tmp_path / "test").metadata.calibration["reused"] is True


@pytest.mark.slow
def test_half_of_validation_in_stage_2_voids_a_certificate_on_it(models, tmp_path):
    out = tmp_path / "tuned"
    TuneSettings(checkpoint=models[0], out=out, stage2_data="holdout", epochs=1).run()
    record = json.loads((out / "training.json").read_text())
    assert record["settings"]["stage2_data"] == "holdout"
    goal = {"calibrate": "digits", "max_risk": 0.2, "delta": 0.1}
    with pytest.raises(CalibrationError, match="M_S was not fitted on, got validation of digits"):
        BuildSettings(checkpoint=out, out=tmp_path / "b", **goal).run()
    assert not (tmp_path / "b").exists()
