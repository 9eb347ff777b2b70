"""`python -m benchmarks` as a user runs it: a mistake gives one line and a status."""

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from tools import processes
from tools.processes import make_read_only, mounted, needs_proc

from benchmarks.__main__ import COMMANDS
from benchmarks.commands.figures import LatencySettings
from train.models import build, save

pytestmark = pytest.mark.slow

start = partial(processes.start, "benchmarks")
refused = partial(processes.refused, "benchmarks")
refused_here = partial(processes.refused_here, "benchmarks", COMMANDS)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "",
            "expected a command (cloud, decoding, demo, encoding, generation, guarantee, harvest, "
            "latency, linear-loss, overhead, quantization, report, runtime, tasks, check)",
        ),
        ("cloud --only peer,speed", "--only expects one of peer, front"),
        ("decoding --only tokens,speed", "--only expects one of tokens, certainty"),
        ("dmo", "did you mean 'demo'"),
        ("demo --dta digits", "did you mean '--data'"),
        ("demo --seeds 1,1", "expected different --seeds"),
        ("demo --seeds one", "--seeds expects"),
        ("harvest", "--large required"),
        ("harvest --large l --seeds 1,1", "expected different --seeds"),
        ("harvest --large l --objective ce", "cross_entropy, gatekeeper"),
        ("latency", "--bundle required"),
        ("generation --only tokens,speed", "--only expects one of tokens, overhead"),
        ("overhead --out none/r.json", "expected --out in an existing folder, got none/r.json"),
        ("quantization", "--checkpoint required"),
        ("quantization --checkpoint c --kinds int3", "--kinds among none, fp16"),
        ("linear-loss --device tpu", "--device expects one of cpu, cuda"),
        ("overhead --rounds none", "--rounds expects a whole number"),
        ("runtime --only calls,speed", "--only expects one of calls, client"),
    ],
)
def test_a_line_that_is_not_understood_is_status_2(line, says, capfd):
    refused_here(line.split(), capfd, status=2, says=says)


def test_a_process_ends_with_status_2():
    refused(["dmo"], status=2, says="did you mean 'demo'")


def test_models_and_data_are_checked_before_anything_is_trained(tmp_path, capfd):
    save(build("resnet-20", labels=["cat", "dog"], image_size=(8, 8)), tmp_path / "pets")
    line = ["demo", "--out", tmp_path / "out"]
    refused_here([*line, "--small", "small-cn"], capfd, says="expected one of small-cnn")
    refused_here([*line, "--large", "resnet-2"], capfd, says="expected one of small-cnn")
    refused_here([*line, "--large", tmp_path / "pets"], capfd, says=["the 2 labels of", "has 10"])
    refused_here([*line, "--data", tmp_path / "none"], capfd, says="nothing is there")
    assert not (tmp_path / "out").exists()


def test_results_that_are_there_are_kept(tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("mine")
    refused_here(["demo", "--out", tmp_path], capfd, says="--overwrite replaces it")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_folders_that_hold_no_results_or_bundle_are_refused(bundle, tmp_path, capfd):
    refused_here(["check", tmp_path], capfd, says="expected results.json in")
    (tmp_path / "results.json").write_text("{")
    refused_here(["check", tmp_path], capfd, says="results.json")
    refused_here(
        ["latency", "--bundle", tmp_path], capfd, says="expected a bundle folder with bundle.json"
    )
    copy = shutil.copytree(bundle, tmp_path / "copy")
    os.truncate(copy / "model.onnx", 100)
    refused_here(["latency", "--bundle", copy], capfd, says="model.onnx")


def test_a_disk_that_may_not_be_written_is_refused(bundle, tmp_path, capfd):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        make_read_only(disk)
        refused_here(["demo", "--out", disk / "out"], capfd, says="Read-only file system")
        line = ["latency", "--bundle", bundle, "--calls", "10", "--out", disk / "l.json"]
        refused_here(line, capfd, says="Read-only file system")


def test_a_full_disk_ends_a_demo_in_one_line(tmp_path, capfd):
    with mounted(tmp_path / "disk", "size=100k") as disk:
        line = ["demo", "--out", disk / "out", "--seeds", "0", "--limit", "40"]
        refused_here(line, capfd, says="no space is left in")
        assert not (disk / "out" / "results.json").exists()


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text(encoding="utf-8").split()]


@needs_proc
def test_a_stopped_measurement_leaves_no_results_and_no_server(large_checkpoint, tmp_path):
    running = {}
    for sent in (signal.SIGINT, signal.SIGKILL):
        out = tmp_path / sent.name
        running[sent] = start("harvest", "--large", large_checkpoint, "--out", out)
    for sent, process in running.items():
        # The first child is the server of M_L; once it listens, only the signal ends it.
        processes.wait_for(lambda p=process: any(map(listens, children_of(p.pid))), process)
        servers = children_of(process.pid)
        process.send_signal(sent)
        _, error = process.communicate(timeout=60)
        if sent == signal.SIGINT:
            last = error.splitlines()[-1]
            assert (process.returncode, last) == (130, "python -m benchmarks: interrupted")
        assert not (tmp_path / sent.name / "results.json").exists()
        assert all(map(is_gone, servers))


def listens(pid):
    """Return whether one of the process's sockets is in state 0A, TCP_LISTEN."""
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # a file was closed, or the process ended, while we looked
        return False
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return any(row[3] == "0A" and f"socket:[{row[9]}]" in links for row in rows)


def is_gone(pid):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_latency_needs_no_cloud(bundle, tmp_path, capsys):
    LatencySettings(bundle=bundle, calls=50, out=tmp_path / "latency.json").run()
    written = json.loads((tmp_path / "latency.json").read_text())
    assert 0 < written["edge"]["p50_ms"] <= written["edge"]["p99_ms"]
    assert "p50_ms" in capsys.readouterr().out
