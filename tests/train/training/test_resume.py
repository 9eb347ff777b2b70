"""A killed run continues after its last epoch and ends where an unbroken one ends."""

import shutil
import signal

import numpy as np
import pytest
import torch
from tools.devices import DEVICES
from tools.hostile_programs import Malicious
from tools.processes import start, wait_for

from train import data
from train.classifier.settings import TuneSettings
from train.errors import CheckpointError, DataError
from train.models import open_checkpoint

pytestmark = pytest.mark.slow
SETTINGS = {"epochs": 12, "seed": 3, "augment": "shift+mirror"}


def tune(checkpoint, out, **flags):
    TuneSettings(checkpoint=checkpoint, out=out, **SETTINGS, **flags).run()


@pytest.fixture(scope="module", params=DEVICES)
def killed(request, small_checkpoint, tmp_path_factory):
    """Return (device, folder) with the work of a run that was killed after two epochs."""
    folder = tmp_path_factory.mktemp("killed")
    flags = {"checkpoint": small_checkpoint, "out": folder / "out", "device": request.param}
    words = [word for name, value in (SETTINGS | flags).items() for word in (f"--{name}", value)]
    process = start("train", "tune", *words)
    work = folder / ".out.training"

    def has_two_epochs():
        steps = [int(p.name.rsplit("-", 1)[1]) for p in work.glob("checkpoint-*")]
        return max(steps, default=0) >= 2 * 3  # 90 pictures, 32 per step

    wait_for(has_two_epochs, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    return request.param, folder


def test_a_killed_run_resumes_to_the_same_model(killed, small_checkpoint, tmp_path):
    device, folder = killed
    assert not (folder / "out").exists()
    resumed = shutil.copytree(folder, tmp_path / "resumed") / "out"
    tune(small_checkpoint, tmp_path / "whole", device=device)
    tune(small_checkpoint, resumed, device=device, resume=True)
    assert [p.name for p in resumed.parent.iterdir()] == ["out"]
    pictures = data.load("digits", limit=50).test.inputs
    wanted, found = (open_checkpoint(p).predict(pictures) for p in (tmp_path / "whole", resumed))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_run_does_not_continue_with_other_data(killed, small_checkpoint, tmp_path):
    device, folder = killed
    copy = shutil.copytree(folder, tmp_path / "copy")
    # The same data set, without some of its pictures.
    with pytest.raises(DataError, match="they have changed since: leave --resume out"):
        tune(small_checkpoint, copy / "out", device=device, resume=True, limit=60)
    assert list(copy.glob(".out.training/checkpoint-*"))


@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "pytorch_model.bin"])
def test_a_pickle_among_the_saved_states_is_refused_and_not_run(
    killed, small_checkpoint, tmp_path, name
):
    device, folder = killed
    copy = shutil.copytree(folder, tmp_path / "copy")
    for state in copy.glob(".out.training/checkpoint-*"):
        torch.save(Malicious(tmp_path / "trap"), state / name)
    with pytest.raises(CheckpointError, match=f"{name}, it is damaged or holds objects"):
        tune(small_checkpoint, copy / "out", device=device, resume=True)
    assert not (tmp_path / "trap").exists()
