"""The demo measures what it says, and `check` finds a figure that was touched."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.cascade import report
from benchmarks.cascade.check import _committed
from benchmarks.cascade.samples import read_samples
from benchmarks.commands.cascade import CheckSettings, DemoSettings
from benchmarks.commands.figures import LatencySettings
from benchmarks.errors import CheckError, ServerStartError
from benchmarks.processes import running_server


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    DemoSettings(out=out, seeds=(0,), limit=120).run()
    return out


@pytest.mark.slow
def test_the_demo_leaves_what_the_design_names(demo):
    for name in ("large", "small", "control", "tuned"):
        assert (demo / name / "model.safetensors").is_file()
    for name in ("bundle-untuned", "bundle-control", "bundle-tuned"):
        assert (demo / name / "bundle.json").is_file()
    for name in ("deferral", "densities", "roc", "latency"):
        assert (demo / f"{name}.png").stat().st_size > 10_000
    content = json.loads((demo / "results.json").read_text())
    assert list(content["variants"]) == ["untuned", "control", "tuned"]
    assert content["hardware"]["cores"] >= 1


@pytest.mark.slow
def test_the_cascades_answers_are_those_of_its_parts(demo):
    for samples in read_samples(demo / "samples.csv.gz").values():
        parts = np.where(samples.deferred > 0, samples.large_quality, samples.small_quality)
        np.testing.assert_array_equal(samples.answer_quality, parts)
        assert set(samples.source.ravel()) == {"edge", "cloud"}


@pytest.mark.slow
def test_check_recomputes_every_figure_and_finds_a_touched_one(demo, tmp_path):
    assert report.check(demo) > 60
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("results.json", "samples.csv.gz", "report.md"):
        shutil.copy(demo / name, copy)
    content = json.loads((copy / "results.json").read_text())
    content["variants"]["tuned"]["figures"]["acc(M_S)"]["value"] += 1e-6
    (copy / "results.json").write_text(json.dumps(content))
    with pytest.raises(CheckError, match="acc"):
        CheckSettings(folders=(copy,)).run()


@pytest.mark.slow
def test_the_committed_results_are_what_their_samples_give():
    folders = _committed()
    with ThreadPoolExecutor(2) as pool:  # one process a core
        told = "".join(pool.map(check, (folders[::2], folders[1::2])))
    assert told.count("all as printed") >= 9


def check(folders):
    command = [sys.executable, "-m", "benchmarks", "check", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_latency_needs_no_cloud(bundle, tmp_path, capsys):
    LatencySettings(bundle=bundle, calls=50, out=tmp_path / "latency.json").run()
    written = json.loads((tmp_path / "latency.json").read_text())
    assert 0 < written["edge"]["p50_ms"] <= written["edge"]["p99_ms"]
    assert "p50_ms" in capsys.readouterr().out


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why():
    arguments = ["cloud_stub", "--checkpoint", "nowhere", "--port", "0"]
    with pytest.raises(ServerStartError, match="nowhere"), running_server(arguments):
        pytest.fail("it started")
