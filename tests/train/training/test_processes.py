"""Several processes train as one does: two of them under `torchrun`, on the CPU."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tools.processes import ROOT

from train.classifier.settings import FitSettings, TuneSettings
from train.errors import TrainingError

pytestmark = pytest.mark.slow

# Without batch norm, whose statistics are of a process's own share of a batch.
VIT = {
    "model_type": "vit",
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def by_two_processes(command, out, settings):
    """Run a training command under `torchrun`; return what it printed."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "train"]
    line += [command, "--out", str(out), "--device", "cpu"]
    line += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same_weights(one, two):
    one, two = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert one.keys() == two.keys()
    for name, wanted in one.items():
        torch.testing.assert_close(two[name], wanted, atol=2e-5, rtol=0, msg=name)


@pytest.fixture
def vit(tmp_path):
    folder = tmp_path / "vit"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(VIT))
    return folder


# 64 inputs are two whole batches: of a cut one, the processes repeat inputs to share it.


def test_two_processes_give_the_weights_of_one_and_keep_the_same_soft_targets(vit, tmp_path):
    start = tmp_path / "start"
    FitSettings(model=str(vit), out=start, epochs=1, limit=64, augment="none").run()
    settings = {"checkpoint": start, "objective": "self_adaptive", "momentum": 0.1}
    settings |= {"epochs": 3, "limit": 64, "stage2_data": "same"}
    TuneSettings(out=tmp_path / "one", **settings).run()
    printed = by_two_processes("tune", tmp_path / "two", settings)
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    assert printed.count("two: validation accuracy") == 1


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TrainingError, match="3 processes can share, got 32"):
        FitSettings(out=tmp_path / "out", epochs=1, limit=64).run()
