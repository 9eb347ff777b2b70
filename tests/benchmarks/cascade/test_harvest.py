"""The harvest round compares like with like, and refuses mistakes before any training."""

import json
from functools import partial

import numpy as np
import pytest
from tools import processes

from benchmarks.__main__ import COMMANDS
from benchmarks.cascade.samples import read_samples
from benchmarks.commands.cascade import CheckSettings, HarvestBenchmarkSettings
from edge_runtime import read_records
from train import data
from train.classifier.settings import FitSettings
from train.data import sets
from train.models import build, save

pytestmark = pytest.mark.slow

INPUTS = 60
refused_here = partial(processes.refused_here, "benchmarks", COMMANDS)


def few(load, limit):
    """Return a loader of few inputs: their number is not the point."""
    return lambda name, **_: load(name, limit=limit)


@pytest.fixture(scope="module")
def harvested(large_checkpoint, tmp_path_factory):
    from benchmarks.cascade import harvest, trial

    out = tmp_path_factory.mktemp("round") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvest, "FitSettings", partial(FitSettings, epochs=3))
        patch.setattr(trial, "TIMED_CALLS", 20)
        patch.setattr(data, "load", few(sets.load, INPUTS))
        patch.setattr(data, "load_train", few(sets.load_train, 2 * INPUTS))
        HarvestBenchmarkSettings(large=large_checkpoint, seeds=(3,), epochs=2, out=out).run()
    return out


def test_a_round_compares_like_with_like(harvested):
    folder = harvested / "seed-3"
    deferred = len(read_records(folder / "recorded").entries)
    assert deferred == len(read_records(folder / "recorded-random").entries) > 0
    runs = {}
    for variant in ("control", "random", "tuned"):
        text = (folder / variant / "training.json").read_text(encoding="utf-8")
        runs[variant] = json.loads(text)
    kept = len(data.load_train(str(folder / "harvest")))
    steps = {
        "control": runs["control"]["epochs_run"] * INPUTS,
        "tuned": runs["tuned"]["epochs_run"] * (INPUTS + kept),
    }
    # Whole epochs leave at most half an epoch between the two.
    assert abs(steps["control"] - steps["tuned"]) <= INPUTS / 2
    assert runs["control"]["settings"]["extra"] is None
    assert runs["random"]["epochs_run"] == runs["tuned"]["epochs_run"] == 2


def test_the_results_are_what_the_samples_give(harvested):
    CheckSettings(folders=(harvested,)).run()
    samples = read_samples(harvested / "samples.csv.gz")
    assert list(samples) == ["untuned", "control", "random", "tuned"]
    for rows in samples.values():
        parts = np.where(rows.deferred > 0, rows.large_quality, rows.small_quality)
        np.testing.assert_array_equal(rows.answer_quality, parts)
    content = json.loads((harvested / "results.json").read_text(encoding="utf-8"))
    counts = content["recorded"]["3"]
    assert counts["read"] == counts["kept"] + counts["duplicates"]


def test_mistakes_are_refused_before_anything_is_trained(large_checkpoint, tmp_path, capfd):
    save(build("resnet-20", labels=["cat", "dog"], image_size=(8, 8)), tmp_path / "pets")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    out = ["harvest", "--out", tmp_path / "out", "--large"]
    refused_here([*out, tmp_path / "pets"], capfd, says=["the 2 labels of", "has 10"])
    refused_here([*out, tmp_path / "none"], capfd, says="nothing is at")
    line = [*out, large_checkpoint]
    refused_here([*line, "--stream", tmp_path / "none"], capfd, says="nothing is there")
    line = ["harvest", "--large", large_checkpoint, "--out", tmp_path / "taken"]
    refused_here(line, capfd, says="--overwrite replaces it")
    assert not (tmp_path / "out").exists()
