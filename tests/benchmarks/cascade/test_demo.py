"""The demo measures what it prints, and `check` accepts it and all committed results."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.cascade.check import committed
from benchmarks.cascade.samples import read_samples
from benchmarks.commands.cascade import CheckSettings

pytestmark = pytest.mark.slow


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
    assert capsys.readouterr().out == f"{demo}: 156 figures recomputed, all as printed\n"


def test_the_committed_results_are_what_their_samples_give():
    folders = [path for path in committed() if path.is_dir()]
    with ThreadPoolExecutor(2) as pool:  # one process per core
        printed = "".join(pool.map(check, halves(folders)))
    assert printed.count("all as printed") == len(folders) >= 9


def halves(folders):
    """Return two lists of folders that take about as long."""
    sizes = {folder: sum(f.stat().st_size for f in folder.glob("*samples*")) for folder in folders}
    lists = ([], [])
    for folder in sorted(folders, key=sizes.get, reverse=True):
        min(lists, key=lambda one: sum(map(sizes.get, one))).append(folder)
    return lists


def check(folders):
    command = [sys.executable, "-m", "benchmarks", "check", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
