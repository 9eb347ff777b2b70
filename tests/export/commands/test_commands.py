"""`python -m export` as a user runs it: a mistake gives one line and a status, and no files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tools import processes
from tools.processes import (
    contents,
    has_loaded_torch,
    make_read_only,
    mounted,
    needs_proc,
    wait_for,
)
from transformers import BertConfig, BertForSequenceClassification, ResNetConfig, ResNetModel

from edge_runtime.bundle import file_sha256, read_bundle
from edge_runtime.cli import main
from export.__main__ import COMMANDS
from export.commands.build import BuildSettings

pytestmark = pytest.mark.slow

start = partial(processes.start, "export")
refused = partial(processes.refused, "export")
refused_here = partial(processes.refused_here, "export", COMMANDS, default=BuildSettings)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "expected a command (build, lm, retune, inspect, verify) or a flag"),
        ("retun --bundle b", "did you mean 'retune'"),
        ("bild --checkpoint c", "did you mean 'build'"),
        ("--chekpoint c --out b", "did you mean '--checkpoint'"),
        ("build --checkpoint c --output b", "did you mean '--out'"),
        ("--checkpoint c", "--out required"),
        ("--out b --threshold 1", "one of --checkpoint DIR, --program FILE and --onnx FILE"),
        ("--onnx o --program p --out b --threshold 1", "got --program and --onnx"),
        ("--checkpoint c --out b", "--threshold T, or --calibrate DATA"),
        ("--checkpoint c --out b --threshold high", "--threshold expects a number"),
        ("--checkpoint c --out b --threshold nan", "got NaN"),
        ("--checkpoint c --out b --threshold -nan", "got NaN"),
        ("--checkpoint c --out b --calibrate digits --target-deferral 30", "in [0, 1], got 30"),
        ("--checkpoint c --out b --threshold 1 --confidence entropy", "max_softmax, neg_entropy"),
        ("--checkpoint c --out b --threshold 1 --second-look mirror", "--calibrate DATA with"),
        ("--checkpoint c --out b --threshold 1 --second-look left", "one of none, mirror"),
        ("--checkpoint c --out b --threshold 1 --band 0.1", "--second-look VIEW with --band"),
        ("retune --bundle b --treshold 1", "did you mean '--threshold'"),
        ("inspect --bundel b", "did you mean '--bundle'"),
        ("inspect b c", "expected one BUNDLE, got b c"),
        ("verify --bundle b", "--data DATA, or for a language model --task TASK"),
        ("verify --bundle b --data digits --split tset", "train, validation, test"),
    ],
)
def test_a_line_that_is_not_understood_is_status_2(line, says, capfd):
    refused_here(line.split(), capfd, status=2, says=says)


@pytest.mark.once
def test_a_process_ends_with_one_line_and_status_1():
    """The tests of stopped processes and of a full standard output start the other commands."""
    refused(["verify", "--bundle", "nowhere", "--data", "digits"], says="nowhere")


def config_alone(path, _):
    (path / "model.safetensors").unlink()


def pickled(path, weights):
    config_alone(path, weights)
    torch.save(weights, path / "pytorch_model.bin")


def relabelled(path, _):
    config = json.loads((path / "config.json").read_text())
    config.update(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    (path / "config.json").write_text(json.dumps(config))


def misnumbered(path, _):
    config = json.loads((path / "config.json").read_text())
    config["id2label"] = {str(int(k) + 1): v for k, v in config["id2label"].items()}
    (path / "config.json").write_text(json.dumps(config))


def truncated(path, _):
    os.truncate(path / "model.safetensors", (path / "model.safetensors").stat().st_size // 2)


def headless(path, _):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=3
    )
    ResNetModel(config).save_pretrained(path)


def of_texts(path, _):
    config = BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertForSequenceClassification(config).save_pretrained(path)


def emptied(path, _):
    shutil.rmtree(path)
    path.mkdir()


CHECKPOINTS = {
    "missing": (lambda p, _: shutil.rmtree(p), "expected a checkpoint folder"),
    "empty": (emptied, "with a config.json, at"),
    "config.json alone": (config_alone, "expected safetensors weights"),
    "pickled weights alone": (pickled, "pickled weights can run code"),
    "config.json is no JSON": (lambda p, _: (p / "config.json").write_text("{"), "config.json"),
    "weights truncated": (truncated, "does not open"),
    "weights empty": (lambda p, _: (p / "model.safetensors").write_bytes(b""), "does not open"),
    "labels that do not fit the weights": (relabelled, "another number of labels"),
    "labels numbered from 1": (misnumbered, "number the labels from 0"),
    "no classification head": (headless, "no classification head"),
    "no tokenizer": (of_texts, "expected a tokenizer of the text classifier"),
    "no processor": (lambda p, _: (p / "preprocessor_config.json").unlink(), "does not open"),
}


@pytest.fixture(params=CHECKPOINTS)
def damaged(request, small_checkpoint, tmp_path):
    """Return (a damaged checkpoint, what the message has to say)."""
    from train.models import open_checkpoint

    weights = open_checkpoint(small_checkpoint).model.state_dict()
    path = shutil.copytree(small_checkpoint, tmp_path / "checkpoint")
    change, says = CHECKPOINTS[request.param]
    change(path, weights)
    return path, says


def test_a_damaged_checkpoint_is_refused(damaged, tmp_path, capfd):
    path, says = damaged
    line = ["--checkpoint", path, "--out", tmp_path / "out" / "b", "--threshold", "0.5"]
    refused_here(line, capfd, says=says)
    assert not (tmp_path / "out").exists()


def table(path, labels, *, size=8):
    """Write a parquet file of pictures, one a label."""
    import datasets
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (len(labels), size, size, 3), np.uint8)
    names = sorted(set(labels))
    rows = {"image": [Image.fromarray(n) for n in noise], "label": labels}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


DIGITS = [str(i) for i in range(10)]
DATA = {
    "other labels": (["cat", "dog"] * 20, 0.3, "expected the 10 labels of"),
    "too few": (DIGITS * 4, 0.01, "expected at least 100 inputs to calibrate"),
}


@pytest.mark.parametrize("mistake", DATA)
def test_data_that_cannot_calibrate_are_refused(mistake, small_checkpoint, bundle, tmp_path, capfd):
    labels, ratio, says = DATA[mistake]
    file = table(tmp_path / "data.parquet", labels)
    copy = shutil.copytree(bundle, tmp_path / "copy")
    before = contents(copy)
    goal = ["--calibrate", file, "--target-deferral", ratio]
    build = ["--checkpoint", small_checkpoint, "--out", tmp_path / "b", *goal]
    refused_here(build, capfd, says=says)
    refused_here(["retune", "--bundle", copy, *goal], capfd, says=says)
    if mistake == "other labels":
        refused_here(["verify", "--bundle", copy, "--data", file], capfd, says=says)
    assert not (tmp_path / "b").exists()
    assert contents(copy) == before


def test_missing_data_are_refused(small_checkpoint, bundle, tmp_path, capfd):
    missing, says = tmp_path / "none.parquet", "nothing is there"
    goal = ["--calibrate", missing, "--target-deferral", "0.3"]
    build = ["--checkpoint", small_checkpoint, "--out", tmp_path / "b", *goal]
    refused_here(build, capfd, says=says)
    refused_here(["verify", "--bundle", bundle, "--data", missing], capfd, says=says)


def test_a_checkpoint_of_other_labels_is_no_comparison(bundle, tmp_path, capfd):
    from train.models import build, save

    save(build("small-cnn", labels=["cat", "dog"], image_size=(8, 8)), tmp_path / "other")
    line = ["verify", "--bundle", bundle, "--data", "digits", "--against", tmp_path / "other"]
    refused_here(line, capfd, says="expected the 10 labels of")


def test_retune_and_verify_on_data(bundle, small_checkpoint, tmp_path, capfd):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    goal = ["--calibrate", "digits", "--target-deferral", "0.1"]
    assert main("python -m export", COMMANDS, argv=["retune", str(copy), *goal]) == 0
    told = capfd.readouterr().out
    for line in ("before", "after"):
        assert re.search(rf"  {line}: +defers [\d.]+% of them; M_S is right on [\d.]+%", told)
    record = read_bundle(copy).metadata.calibration
    assert record["target"] == 0.1
    assert record["achieved"] <= 0.1
    line = ["verify", "--bundle", copy, "--data", "digits", "--against", small_checkpoint]
    assert main("python -m export", COMMANDS, argv=list(map(str, line))) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert "decision flips" in printed.out


def test_data_of_the_wrong_kind_for_the_graph_are_refused(small_checkpoint, tmp_path, capfd):
    out = tmp_path / "b"
    BuildSettings(checkpoint=small_checkpoint, out=out, threshold=0.5, preprocessing="none").run()
    verify = ["verify", "--bundle", out, "--data", "digits"]
    refused_here(verify, capfd, says="pixel_values tensor(float)")


def test_an_output_that_is_taken_is_refused_before_the_work(
    bundle, small_checkpoint, tmp_path, capfd
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    copy = shutil.copytree(bundle, tmp_path / "copy")
    before = contents(tmp_path)
    line = ["--checkpoint", small_checkpoint, "--threshold", "0.5", "--out"]
    refused_here([*line, tmp_path / "file", "--overwrite"], capfd, says="a file is there")
    refused_here([*line, copy], capfd, says="--overwrite replaces it")
    # A slip of the fingers must not cost a folder that is no bundle.
    other = [*line, tmp_path / "folder", "--overwrite"]
    refused_here(other, capfd, says="or a folder with bundle.json")
    refused_here([*line, tmp_path / "file" / "b"], capfd, says="writable folder")
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_the_old_bundle(bundle, small_checkpoint, tmp_path, capfd):
    # The bundle takes about 70 kB: there is room for one, not for two.
    with mounted(tmp_path / "disk", "size=100k") as disk:
        copy = shutil.copytree(bundle, disk / "b")
        before = contents(disk)
        says = ["No space left on device", "nothing was written"]
        retune = ["retune", "--bundle", copy, "--threshold", "0.5"]
        refused_here(retune, capfd, says=says)
        line = ["--checkpoint", small_checkpoint, "--out", copy, "--threshold", "0.5"]
        refused_here([*line, "--overwrite"], capfd, says=says)
        assert contents(disk) == before
        assert {p.name for p in disk.iterdir()} == {"b"}


def test_a_disk_that_may_not_be_written_is_refused(bundle, small_checkpoint, tmp_path, capfd):
    with mounted(tmp_path / "disk", "size=1m") as disk:
        copy = shutil.copytree(bundle, disk / "b")
        make_read_only(disk)
        before = contents(disk)
        line = ["--checkpoint", small_checkpoint, "--threshold", "0.5", "--out"]
        for out in (disk / "new", disk / "deep" / "er", copy):
            refused_here([*line, out, "--overwrite"], capfd, says="writable folder")
        retune = ["retune", "--bundle", copy, "--threshold", "0.5"]
        refused_here(retune, capfd, says="Read-only file system")
        assert contents(disk) == before


@pytest.mark.once
def test_a_full_standard_output_is_one_line(bundle):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        for line in ("export inspect", "edge_runtime doctor"):
            module, command = line.split()
            done = subprocess.run(
                [sys.executable, "-m", module, command, "--bundle", bundle],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert "No space left on device" in done.stderr


def is_writing(folder):
    return any(folder.glob(".*/fresh/*"))


@pytest.fixture
def heavy(bundle, tmp_path):
    """A bundle whose graph takes long enough to write that a signal arrives meanwhile.

    The weights are in the graph itself, because retune only links further files.
    """
    path = shutil.copytree(bundle, tmp_path / "place" / "b")
    model = onnx.load(path / "model.onnx")
    ballast = np.zeros(64 * 2**20, np.uint8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(ballast, "ballast"))
    onnx.save(model, path / "model.onnx")
    record = json.loads((path / "bundle.json").read_text())
    record["files"]["model.onnx"] = file_sha256(path / "model.onnx")
    (path / "bundle.json").write_text(json.dumps(record))
    return path


@needs_proc
@pytest.mark.once
@pytest.mark.parametrize(("sent", "out"), [(signal.SIGINT, "new"), (signal.SIGKILL, "old")])
def test_a_build_that_is_stopped_leaves_nothing(sent, out, bundle, small_checkpoint, tmp_path):
    shutil.copytree(bundle, tmp_path / "old")
    before = contents(tmp_path)
    line = ["--checkpoint", small_checkpoint, "--threshold", "0.5", "--overwrite", "--out"]
    process = start(*line, tmp_path / out)
    wait_for(lambda: has_loaded_torch(process), process)
    time.sleep(0.5)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert contents(tmp_path) == before
    if sent == signal.SIGINT:
        assert (process.returncode, error) == (130, "python -m export: interrupted\n")


@pytest.mark.once
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_retune_stopped_while_it_writes_leaves_a_whole_bundle(sent, heavy):
    before, folder = read_bundle(heavy).metadata.threshold, heavy.stat().st_ino
    process = start("retune", "--bundle", heavy, "--threshold", "0.25")
    wait_for(lambda: is_writing(heavy.parent), process)
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    # A busy machine may deliver the signal late, when the new folder has taken the old one's place.
    is_replaced = heavy.stat().st_ino != folder
    assert read_bundle(heavy).metadata.threshold == (0.25 if is_replaced else before)
    if sent == signal.SIGINT:
        assert (process.returncode, error) == (130, "python -m export: interrupted\n")
        assert [p.name for p in heavy.parent.iterdir()] == ["b"]


def test_a_minus_sign_before_infinity_is_a_threshold(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    line = ["retune", "--bundle", str(copy), "--threshold", "-inf"]
    assert main("python -m export", COMMANDS, argv=line) == 0
    (value,) = [
        onnx.numpy_helper.to_array(t)
        for t in onnx.load(copy / "model.onnx").graph.initializer
        if t.name == "threshold"
    ]
    assert value == -np.inf
