"""A GPU does all the work that it is asked to do, with the results of a CPU."""

import numpy as np
import pytest
from tools.devices import DEVICES, cuda

from train import data
from train.classifier.settings import DistillSettings, TuneSettings
from train.models import build, open_checkpoint
from train.models.checkpoint import Checkpoint
from train.sweeps.settings import SweepSettings
from train.training.schedule import move_to

EVERY = "gatekeeper:0.5,auxiliary:0.5,cascade_aware,deep_gamblers,self_adaptive,average"


@pytest.fixture
def places(monkeypatch):
    """Return the kinds of device that predictions were made on, filled as they are made."""
    seen, predict = set(), Checkpoint.predict

    def watched(self, *args, **settings):
        seen.add(next(self.model.parameters()).device.type)
        return predict(self, *args, **settings)

    monkeypatch.setattr(Checkpoint, "predict", watched)
    return seen


@pytest.mark.parametrize("device", [cuda])
@pytest.mark.parametrize("name", ["small-cnn", "resnet-18", "mobilenetv3-small"])
def test_predictions_are_those_of_the_cpu(name, device):
    pictures = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    checkpoint = build(name, labels=[str(i) for i in range(10)], image_size=(32, 32))
    wanted = checkpoint.predict(pictures)
    found = move_to(checkpoint, device).predict(pictures)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("device", [cuda])  # on the CPU the tests of sweeps show it
def test_a_sweep_works_on_its_device(device, places, small_checkpoint, large_checkpoint, tmp_path):
    SweepSettings(
        large=large_checkpoint,
        teacher=large_checkpoint,
        out=tmp_path / "sweep",
        methods=tuple(EVERY.split(",")),
        seeds=(0, 1),
        fit_epochs=1,
        epochs=1,
        device=device,
    ).run()
    assert places == {device}


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_student_is_taught_and_tuned_on_its_device(device, places, large_checkpoint, tmp_path):
    student, tuned = tmp_path / "student", tmp_path / "tuned"
    shared = {"epochs": 1, "limit": 60, "device": device}
    DistillSettings(teacher=str(large_checkpoint), out=student, **shared).run()
    settings = {"large": large_checkpoint, "objective": "cascade_aware", **shared}
    TuneSettings(checkpoint=student, out=tuned, **settings).run()
    assert places == {device}


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_model_leaves_half_precision_after_training(device, small_checkpoint, tmp_path):
    from train.classifier.stage2 import tune_checkpoint

    start, splits = open_checkpoint(small_checkpoint), data.load("digits", limit=60)
    settings = {"out": tmp_path / "out", "epochs": 1, "precision": "bf16", "device": device}
    tune_checkpoint(TuneSettings(checkpoint=small_checkpoint, **settings), start, splits)
    reopened = move_to(open_checkpoint(tmp_path / "out"), device).predict(splits.test.inputs)
    np.testing.assert_array_equal(start.predict(splits.test.inputs), reopened)
