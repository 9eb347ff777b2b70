"""The demo measures what it prints, and `check` accepts it and all committed results."""

import hashlib
import json

import numpy as np
import pytest

from benchmarks.cascade.check import COMMITTED, committed
from benchmarks.cascade.samples import read_samples
from benchmarks.commands.cascade import CheckSettings

pytestmark = pytest.mark.slow

# A minute to recompute, by the code that recomputes the smaller sweeps. Who changes
# one runs `python -m benchmarks check` on it and notes it here.
CHECKED = {
    "sweep-cifar10-jpeg": "2c9803cfa7ac0f4e",
    "sweep-cifar10-jpeg-gpu": "de4b67a37aa8c4f3",
    "sweep-fashion-mnist": "aeea843c1d45185b",
}


def test_the_demo_leaves_models_bundles_pictures_and_results(demo):
    for name in ("large", "small", "control", "tuned"):
        assert (demo / name / "model.safetensors").is_file()
    for name in ("bundle-untuned", "bundle-control", "bundle-tuned"):
        assert (demo / name / "bundle.json").is_file()
    for name in ("deferral", "densities", "roc", "latency"):
        assert (demo / f"{name}.png").stat().st_size > 10_000
    content = json.loads((demo / "results.json").read_text())
    assert list(content["variants"]) == ["untuned", "control", "tuned"]
    assert content["hardware"]["cores"] >= 1


def test_the_cascades_answers_are_those_of_its_parts(demo):
    for samples in read_samples(demo / "samples.csv.gz").values():
        parts = np.where(samples.deferred > 0, samples.large_quality, samples.small_quality)
        np.testing.assert_array_equal(samples.answer_quality, parts)
        assert set(samples.source.ravel()) == {"edge", "cloud"}


def test_check_recomputes_every_figure(demo, capsys):
    CheckSettings(folders=(demo,)).run()
    assert capsys.readouterr().out == f"{demo}: 174 figures recomputed, all as printed\n"


def test_the_committed_results_are_what_their_samples_give(capsys):
    folders = [path for path in committed() if path.is_dir() and path.name not in CHECKED]
    CheckSettings(folders=tuple(folders)).run()
    assert capsys.readouterr().out.count("all as printed") == len(folders) >= 7


@pytest.mark.parametrize("name", CHECKED)
def test_a_large_committed_sweep_is_the_one_that_check_recomputed(name):
    files = [f for f in sorted((COMMITTED / name).glob("sweep*")) if f.suffix != ".png"]
    assert [f.name for f in files] == ["sweep-results.json", "sweep-samples.npz", "sweep.md"]
    digest = hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files))
    assert digest.hexdigest()[:16] == CHECKED[name], f"run benchmarks check on {name}, then note it"
