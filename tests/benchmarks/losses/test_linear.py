"""`linear-loss` measures, and writes a file that its checks accept."""

import json

import pytest

from benchmarks import figures as verdicts
from benchmarks.commands.figures import LinearLossSettings
from benchmarks.losses.linear_case import is_counted
from edge_runtime.errors import GatekeeperError

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not is_counted(), reason="this system does not tell a process's peak")
def test_the_figures_of_a_small_vocabulary_are_measured_and_check(tmp_path):
    out = tmp_path / "figures.json"
    sizes = {"vocabulary": 20_000, "hidden": 16, "tokens": 512}
    LinearLossSettings(**sizes, rounds=1, out=out).run()
    figures = {one["name"]: one for one in json.loads(out.read_text())["figures"]}
    assert verdicts.check(out) == len(figures) == 5
    # One chunk holds the logits once; autograd holds them, their softmax and more.
    assert 0 < figures["peak memory, ours / dense autograd"]["value"] < 0.5
    assert figures["value and gradients, ours against dense"]["met"]


def test_a_device_that_is_not_there_is_refused():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(GatekeeperError, match="expected a CUDA device"):
        LinearLossSettings(device="cuda").run()
