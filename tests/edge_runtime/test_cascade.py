"""The chain end to end, with the large model in a real server process."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest

from benchmarks.processes import running_server
from edge_runtime import (
    BundleError,
    Cascade,
    ContractVersionError,
    InputError,
    SettingError,
    Source,
    UseError,
)
from train.models import open_checkpoint


@pytest.fixture(scope="module")
def address(large_checkpoint):
    with running_server(["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]) as it:
        yield it


@pytest.mark.slow
def test_only_deferred_rows_are_forwarded_and_return_to_their_places(
    bundle, address, pictures, large_checkpoint, small_checkpoint
):
    large = open_checkpoint(large_checkpoint).predict(pictures).argmax(-1)
    small = open_checkpoint(small_checkpoint).predict(pictures).argmax(-1)
    assert (large != small).any()
    with Cascade.open(bundle, cloud=address, deadline_s=20) as cascade:
        answers = cascade.batch(pictures)
        deferred = np.array([a.deferred for a in answers])
        assert 0 < deferred.sum() < len(pictures)
        for row, answer in enumerate(answers):
            wanted = large[row] if deferred[row] else small[row]
            assert answer.source is (Source.CLOUD if deferred[row] else Source.EDGE)
            assert (answer.prediction, answer.label) == (wanted, str(wanted))
            assert answer.error is None
        pixels = int(deferred.sum()) * pictures[0].nbytes
        assert pixels < cascade.request_bytes < pixels + 2000
        one = cascade(pictures[0])
    assert (one.prediction, one.source) == (answers[0].prediction, answers[0].source)


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_no_answer(bundle, large_checkpoint, pictures):
    arguments = ["-m", "cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        address = next(w for w in line.replace(",", " ").split() if w.startswith("127.0.0.1:"))
        with Cascade.open(bundle, cloud=address, threshold=2.0, deadline_s=20) as cascade:
            assert cascade(pictures[0]).source is Source.CLOUD
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            answers = cascade.batch(pictures)
            edge = cascade.edge(pictures)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert {a.source for a in answers} == {Source.EDGE_FALLBACK}
    assert [a.prediction for a in answers] == edge.prediction.tolist()
    assert all("CloudUnavailableError" in a.error for a in answers)


def test_an_unreachable_cloud_falls_back_and_says_why(bundle, pictures):
    with Cascade.open(bundle, cloud="127.0.0.1:9", threshold=2.0, deadline_s=2) as cascade:
        answer = cascade(pictures[0])
    assert answer.source is Source.EDGE_FALLBACK
    assert answer.deferred
    assert "127.0.0.1:9" in answer.error


def test_without_a_cloud_a_deferred_input_says_so(bundle, pictures):
    answer = Cascade.open(bundle, threshold=2.0)(pictures[0])
    assert (answer.source, answer.error) == (Source.EDGE_FALLBACK, "no cloud address was given")


def test_a_threshold_of_minus_infinity_keeps_everything_on_the_edge(bundle, pictures):
    answers = Cascade.open(bundle, threshold=float("-inf")).batch(list(pictures))
    assert {a.source for a in answers} == {Source.EDGE}
    assert len(answers) == len(pictures)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
        [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
        [],
    ],
)
def test_an_input_that_does_not_fit_is_refused(bundle, wrong):
    with pytest.raises(InputError, match="expected"):
        Cascade.open(bundle).batch(wrong)


def test_a_nan_threshold_is_refused(bundle):
    with pytest.raises(SettingError, match="NaN"):
        Cascade.open(bundle, threshold=float("nan"))


def truncate(path):
    content = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(content[: len(content) // 2])


def edit(path, change):
    record = json.loads((path / "bundle.json").read_text())
    change(record)
    (path / "bundle.json").write_text(json.dumps(record))


def ungated(path):
    model = onnx.load(path / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, path / "model.onnx")
    from edge_runtime.bundle import file_sha256

    digest = file_sha256(path / "model.onnx")
    edit(path, lambda r: r["files"].update({"model.onnx": digest}))


DAMAGES = {
    "altered or truncated": truncate,
    "is missing": lambda p: (p / "model.onnx").unlink(),
    "found none": lambda p: (p / "bundle.json").unlink(),
    "not JSON": lambda p: (p / "bundle.json").write_text("{"),
    "outside its folder": lambda p: edit(p, lambda r: r["files"].update({"../x": "0"})),
    "incomplete or malformed": lambda p: edit(p, lambda r: r["metadata"].pop("labels")),
    "differ": lambda p: edit(p, lambda r: r["metadata"].update(threshold=0.1)),
    "no gate metadata": ungated,
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_bundle_is_refused_in_words(words, bundle, tmp_path):
    path = shutil.copytree(bundle, tmp_path / "copy")
    DAMAGES[words](path)
    with pytest.raises(BundleError, match=words):
        Cascade.open(path)


def test_an_unknown_contract_version_is_refused(bundle, tmp_path):
    path = shutil.copytree(bundle, tmp_path / "copy")
    edit(path, lambda r: r["metadata"].update(contract_version=2))
    with pytest.raises(ContractVersionError, match="version 1, the bundle says 2"):
        Cascade.open(path)


@pytest.mark.slow
def test_run_and_doctor_speak_to_a_user(bundle, address, pictures, tmp_path):
    from PIL import Image

    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")

    def command(*words):
        line = [sys.executable, "-m", "edge_runtime", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    asked = ("--bundle", bundle, "--cloud", address, "--deadline-s", "20")
    done = command("run", *asked, "--json", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] in {"edge", "cloud"}
    done = command("run", *asked, tmp_path / "broken.png")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    done = command("doctor", *asked)
    assert done.returncode == 0, done.stdout
    assert "ok    cloud: answered in" in done.stdout
    done = command("doctor", "--bundle", bundle, "--cloud", "127.0.0.1:9")
    assert done.returncode == 1
    assert "FAIL  cloud" in done.stdout


def test_a_classifier_streams_nothing(bundle):
    with Cascade.open(bundle) as cascade, pytest.raises(UseError, match="call the cascade"):
        cascade.stream(np.zeros((8, 8, 3), np.uint8))
