"""Fitting and tuning: they learn, repeat, and end a run that breaks or collapses."""

import json
import shutil

import numpy as np
import pytest
from tools.processes import contents

from train import data
from train.classifier.correctness import out_of_fold_right
from train.classifier.loop import train_checkpoint
from train.classifier.settings import FitSettings, TuneSettings
from train.errors import CheckpointError, OutputError, TrainingError
from train.models import open_checkpoint
from train.objectives import CrossEntropy
from train.training.schedule import Schedule

pytestmark = pytest.mark.slow


def tuned(fitted, out, **settings):
    TuneSettings(checkpoint=fitted, out=out, **settings).run()
    record = json.loads((out / "training.json").read_text())
    return record["stopped"], record["validation_accuracy"]


def accuracy_of(folder):
    return json.loads((folder / "training.json").read_text())["validation_accuracy"]


def test_fit_learns_and_repeats(models, tmp_path):
    assert accuracy_of(models[0]) > 0.6
    FitSettings(out=tmp_path / "again", epochs=12, patience=12).run()
    test = data.load("digits", limit=50).test
    first, second = (
        open_checkpoint(p).predict(test.inputs) for p in (models[0], tmp_path / "again")
    )
    np.testing.assert_array_equal(first, second)


def test_tune_changes_the_model_and_guards_its_output(models, tmp_path):
    settings = {"epochs": 2, "limit": 32}
    tuned(models[0], tmp_path / "tuned", **settings)
    test = data.load("digits", limit=50).test
    before, after = (
        open_checkpoint(p).predict(test.inputs) for p in (models[0], tmp_path / "tuned")
    )
    assert not np.array_equal(before, after)
    with pytest.raises(OutputError, match="--overwrite"):
        tuned(models[0], tmp_path / "tuned", **settings)
    assert [p.name for p in tmp_path.iterdir()] == ["tuned"]


@pytest.mark.parametrize("kept", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run(kept, tmp_path):
    settings = {"epochs": 3, "limit": 64, "batch_size": 8, "overwrite": kept}
    if kept:
        FitSettings(out=tmp_path / "out", **{**settings, "epochs": 1}).run()
    before = contents(tmp_path / "out")
    with pytest.raises(TrainingError, match="--learning-rate"):
        FitSettings(out=tmp_path / "out", learning_rate=1e30, **settings).run()
    assert contents(tmp_path / "out") == before
    assert bool(before) == kept


@pytest.mark.parametrize("record", ["[]", "{", '{"settings": null}', '{"epochs_run": "x"}'])
def test_a_start_with_a_damaged_record_is_refused(record, small_checkpoint, tmp_path):
    start = shutil.copytree(small_checkpoint, tmp_path / "start")
    (start / "training.json").write_text(record)
    splits = data.load("digits", limit=64)
    schedule = Schedule(
        epochs=1, batch_size=16, learning_rate=1e-3, weight_decay=0.0, scheduler="cosine"
    )
    with pytest.raises(CheckpointError, match="the record of a training at"):
        out_of_fold_right(open_checkpoint(start), splits.train, schedule, tmp_path / "work")


def test_a_loss_that_is_nan_later_keeps_the_epochs_before_it(small_checkpoint, tmp_path):
    splits = data.load("digits", limit=64)
    calls = iter(range(10_000))

    class Breaks(CrossEntropy):
        def loss(self, step):
            good = super().loss(step)
            return good if next(calls) < 8 else good * float("nan")

    schedule = Schedule(
        epochs=5, batch_size=16, learning_rate=1e-3, weight_decay=0.0, scheduler="cosine"
    )
    with pytest.raises(TrainingError, match="keeps the last good epoch"):
        train_checkpoint(
            open_checkpoint(small_checkpoint),
            splits,
            Breaks(),
            schedule,
            out=tmp_path / "out",
            resume=False,
            overwrite=False,
            record={},
        )
    # 64 pictures, 16 per step: two epochs of four steps were good.
    assert [p.name for p in (tmp_path / ".out.training").glob("checkpoint-*")] == ["checkpoint-8"]


def test_a_collapsing_run_ends_with_its_last_good_weights(models, tmp_path, capsys):
    before = accuracy_of(models[0])
    # Nothing but "be uncertain where you are wrong": the quickest way to forget.
    settings = {"alpha": 0.0, "epochs": 20, "stage2_data": "same", "learning_rate": 3e-3}
    reason, accuracy = tuned(models[0], tmp_path / "guarded", **settings)
    assert reason.startswith("stopped in epoch")
    assert accuracy >= before - 0.1
    assert "rho = 0.00" in capsys.readouterr().err
    reason, accuracy = tuned(models[0], tmp_path / "free", guard=False, **settings)
    assert reason is None
    assert accuracy < before - 0.1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stage2_data": "crossfit"}, "fold-2: validation accuracy"),
        (
            {"stage2_data": "holdout", "learning_rate": 3e-4},
            "held-out inputs, not on the 90 of train",
        ),
        ({"correctness": "eval", "stage2_data": "same"}, "joint accuracy at 30%"),
        ({"head": "auxiliary"}, "stage 2 data: "),
        ({"objective": "label_smoothing"}, "a perfect M_L"),
    ],
)
def test_every_way_of_tuning_prints_what_it_does(settings, says, models, tmp_path, capsys):
    out = tmp_path / "tuned"
    assert tuned(models[0], out, epochs=2, **settings)[0] is None
    assert open_checkpoint(out).labels == tuple("0123456789")
    assert [p.name for p in tmp_path.iterdir()] == ["tuned"]
    assert says in capsys.readouterr().out


def test_cascade_aware_training_uses_the_large_model(models, tmp_path, capsys):
    settings = {"objective": "cascade_aware", "large": models[1], "epochs": 2}
    assert tuned(models[0], tmp_path / "tuned", **settings)[0] is None
    assert "with M_L" in capsys.readouterr().out
