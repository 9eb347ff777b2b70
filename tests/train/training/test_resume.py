"""A killed run goes on from its last epoch and ends where an unbroken one ends."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from tools.devices import DEVICES
from tools.processes import wait_for

from train import data
from train.models import open_checkpoint

pytestmark = pytest.mark.slow
_LONGEST_S = 90
_EPOCHS = "40"


def tune(checkpoint, out, device, *flags):
    words = ["tune", "--checkpoint", checkpoint, "--out", out, "--epochs", _EPOCHS, "--seed", "3"]
    words += ["--device", device]
    line = [sys.executable, "-m", "train", *map(str, words), *flags]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=_LONGEST_S)
    assert process.returncode == 0, output


def kill_after_two_epochs(process, work):
    def has_two_epochs():
        steps = [int(p.name.rsplit("-", 1)[1]) for p in work.glob("checkpoint-*")]
        return max(steps, default=0) >= 2 * 3  # 91 pictures, 32 a step

    wait_for(has_two_epochs, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"


@pytest.mark.parametrize("augment", ["none", "shift+mirror"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_killed_run_resumes_to_the_same_model(device, augment, small_checkpoint, tmp_path):
    flags = ["--augment", augment]
    finish(tune(small_checkpoint, tmp_path / "whole", device, *flags))
    work = tmp_path / ".killed.training"
    kill_after_two_epochs(tune(small_checkpoint, tmp_path / "killed", device, *flags), work)
    assert not (tmp_path / "killed").exists()
    assert any(work.iterdir())
    finish(tune(small_checkpoint, tmp_path / "killed", device, *flags, "--resume"))
    assert not work.exists()
    pictures = data.load("digits", limit=50).test.inputs
    whole, resumed = (open_checkpoint(tmp_path / n).predict(pictures) for n in ("whole", "killed"))
    np.testing.assert_allclose(resumed, whole, atol=1e-5)


def test_a_run_does_not_go_on_with_other_data(small_checkpoint, tmp_path, capfd):
    work = tmp_path / ".killed.training"
    kill_after_two_epochs(tune(small_checkpoint, tmp_path / "killed", "cpu"), work)
    # The same data set, less some of its pictures.
    process = tune(small_checkpoint, tmp_path / "killed", "cpu", "--resume", "--limit", "60")
    output, _ = process.communicate(timeout=_LONGEST_S)
    assert process.returncode == 1
    assert "they have changed since: leave --resume out" in output
    assert list(work.glob("checkpoint-*"))
