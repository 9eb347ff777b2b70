"""Half precision and CUDA: the loss keeps its value, training learns, and the rest is as ever."""

import json

import numpy as np
import pytest
import torch
from tools.devices import DEVICES, cuda

from edge_runtime import EdgeModel
from export.commands.build import BuildSettings
from train import data
from train.classifier.settings import EvaluateSettings, FitSettings, TuneSettings
from train.models import open_checkpoint


@pytest.fixture(scope="module", params=DEVICES)
def mixed(request, tmp_path_factory):
    """Return (device, checkpoint folder) of a model fitted under bf16 autocast."""
    out = tmp_path_factory.mktemp("mixed") / "out"
    FitSettings(out=out, epochs=12, patience=12, precision="bf16", device=request.param).run()
    return request.param, out


@pytest.mark.slow
def test_training_under_autocast_learns_and_names_its_device(mixed):
    device, out = mixed
    record = json.loads((out / "training.json").read_text())
    assert record["validation_accuracy"] > 0.6
    assert record["device"].startswith(device)
    weights = open_checkpoint(out).model.state_dict().values()
    assert {w.dtype for w in weights if w.is_floating_point()} == {torch.float32}


@pytest.mark.slow
def test_a_checkpoint_of_any_device_is_tuned_evaluated_and_exported(mixed, tmp_path, capsys):
    device, fitted = mixed
    tuned = tmp_path / "tuned"
    TuneSettings(checkpoint=fitted, out=tuned, epochs=2, precision="bf16", device=device).run()
    EvaluateSettings(checkpoint=tuned, device=device).run()
    assert "acc(M_S)" in capsys.readouterr().out
    BuildSettings(checkpoint=tuned, out=tmp_path / "bundle", threshold=0.9).run()
    pictures = data.load("digits", limit=60).test.array()
    np.testing.assert_array_equal(
        EdgeModel.open(tmp_path / "bundle")(pictures).prediction,
        open_checkpoint(tuned).predict(pictures).argmax(axis=-1),
    )


@pytest.mark.slow
@pytest.mark.parametrize("device", [cuda])
def test_half_precision_with_loss_scaling_learns(device, tmp_path):
    FitSettings(out=tmp_path / "out", epochs=12, patience=12, precision="fp16", device=device).run()
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["validation_accuracy"] > 0.6


@pytest.mark.slow
def test_a_run_in_half_precision_leaves_the_next_one_in_full(tmp_path):
    for name, precision in (("before", "fp32"), ("half", "bf16"), ("after", "fp32")):
        settings = {"epochs": 2, "limit": 64, "precision": precision, "device": "cpu"}
        FitSettings(out=tmp_path / name, **settings).run()
    before, half, after = (
        open_checkpoint(tmp_path / name).model.state_dict() for name in ("before", "half", "after")
    )
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not all(torch.equal(half[name], value) for name, value in before.items())
