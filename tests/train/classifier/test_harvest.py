"""What a device recorded becomes a data set that the small model is trained with."""

import dataclasses
import json
import re
import signal
import sys
from collections import Counter
from functools import partial

import datasets
import numpy as np
import pytest
from PIL import Image
from tools import processes
from tools.processes import contents, finish, mounted

from benchmarks.processes import running_server
from edge_runtime import Cascade, Record, Recorder, Source
from edge_runtime.cli import main
from train import data
from train.__main__ import COMMANDS
from train.classifier.harvest import label_names
from train.classifier.settings import HarvestSettings
from train.errors import DataError
from train.models import open_checkpoint

refused = partial(processes.refused_here, "train", COMMANDS)
RECORD = Record(
    model="large",
    label="7",
    confidence=0.75,
    small_label="1",
    small_confidence=0.5,
    threshold=0.625,
)


def record(folder, pictures, **changes):
    """Record pictures, each with a list of what its record says otherwise."""
    recorder = Recorder(folder)
    for i, picture in enumerate(pictures):
        own = {name: values[i] for name, values in changes.items()}
        recorder.add(picture, dataclasses.replace(RECORD, **own))
    recorder.close()
    assert recorder.recorded == len(pictures)
    return folder


def harvest(out, *folders, **settings):
    HarvestSettings(records=folders, labels_from="digits", out=out, **settings).run()
    counts = json.loads((out / "harvest.json").read_text(encoding="utf-8"))["counts"]
    return datasets.load_dataset("parquet", data_dir=str(out), split="train"), counts


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_a_harvest_holds_each_picture_with_the_large_models_answer(pictures, tmp_path):
    confidence = [0.5, 0.75, 0.25]
    record(tmp_path / "r", pictures[:3], label=["7", "2", "7"], confidence=confidence)
    table, counts = harvest(tmp_path / "h", tmp_path / "r")
    assert counts == {"read": 3, "kept": 3, "duplicates": 0, "under_minimum": 0, "damaged": 0}
    assert table.features["label"].names == [str(i) for i in range(10)]
    found = {np.asarray(row["image"]).tobytes(): (row["label"], row["confidence"]) for row in table}
    answers = zip(pictures[:3], [7, 2, 7], confidence, strict=True)
    wanted = {picture.tobytes(): (label, sure) for picture, label, sure in answers}
    assert found == wanted
    assert sorted(p.name for p in (tmp_path / "h").iterdir()) == [
        "harvest.json",
        "train-00000-of-00001.parquet",
    ]


def test_a_picture_recorded_twice_is_kept_once_with_the_newest_answer(pictures, tmp_path):
    old = record(tmp_path / "old", pictures[:3], label=["1", "2", "3"])
    new = record(tmp_path / "new", pictures[1:4], label=["4", "5", "6"])
    table, counts = harvest(tmp_path / "h", new, old)
    assert (counts["read"], counts["kept"], counts["duplicates"]) == (6, 4, 2)
    assert sorted(table["label"]) == [1, 4, 5, 6]


def test_answers_the_large_model_was_unsure_of_are_left_out(pictures, tmp_path):
    confidence = [0.5, 0.6, 0.4, float("nan")]
    folder = record(tmp_path / "r", pictures[:4], confidence=confidence)
    _, counts = harvest(tmp_path / "all", folder)
    assert counts["kept"] == 4
    table, counts = harvest(tmp_path / "sure", folder, min_confidence=0.5)
    assert (counts["read"], counts["kept"], counts["under_minimum"]) == (4, 2, 2)
    assert sorted(table["confidence"]) == pytest.approx([0.5, 0.6])


def test_damage_costs_only_itself_and_is_counted(pictures, tmp_path, capsys):
    folder = record(tmp_path / "r", [*pictures[:5], np.zeros((3, 8, 8), np.float32)])
    files = sorted(folder.glob("*.png"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:40])
    files[2].write_bytes(b"")
    lines = folder / "records.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"file": "half')
    _, counts = harvest(tmp_path / "h", folder)
    # A file that is gone, two that are broken, an array that is no picture, half a line.
    assert counts == {"read": 7, "kept": 2, "duplicates": 0, "under_minimum": 0, "damaged": 5}
    words = "7 read, 2 kept, 0 duplicates, 0 under the minimum, 5 damaged"
    assert capsys.readouterr().out == f"{tmp_path / 'h'}: {words}\n"


def test_pictures_kept_as_arrays_are_pictures(pictures, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "PIL", None)
        folder = record(tmp_path / "r", pictures[:2])
    assert len(list(folder.glob("*.npy"))) == 2
    table, counts = harvest(tmp_path / "h", folder)
    assert counts["kept"] == 2
    kept = {np.asarray(image).tobytes() for image in table["image"]}
    assert kept == {p.tobytes() for p in pictures[:2]}


def test_class_names_come_from_a_bundle_a_checkpoint_or_a_data_set(bundle, small_checkpoint):
    wanted = tuple(str(i) for i in range(10))
    for source in (str(bundle), str(small_checkpoint), "digits"):
        assert label_names(source) == wanted
    with pytest.raises(DataError, match="nothing is there"):
        label_names("./none")


def test_a_harvest_is_extra_data(pictures, tmp_path):
    folder = record(tmp_path / "r", pictures[:3], label=["7", "2", "7"])
    harvest(tmp_path / "h", folder)
    digits = data.load("digits", limit=20)
    more = data.with_extra(digits, str(tmp_path / "h"))
    assert Counter(more.train.labels[20:].tolist()) == {7: 2, 2: 1}
    assert len(data.load_unlabelled(str(tmp_path / "h"), digits.label_names)) == 3
    # The recorder's own folder is one of pictures without labels.
    assert len(data.load_unlabelled(str(folder), digits.label_names)) == 3


def test_mistakes_are_one_line_and_leave_nothing(pictures, tmp_path, capfd):
    folder = record(tmp_path / "r", pictures[:2], label=["7", "cat"])
    low = record(tmp_path / "low", pictures[:2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    line = ["harvest", "--out", tmp_path / "o", "--labels-from", "digits", "--records"]
    refused([*line, tmp_path / "none"], capfd, says="expected records.jsonl in")
    refused([*line, tmp_path / "empty"], capfd, says="expected records.jsonl in")
    refused([*line, folder], capfd, says=["the 10 classes of digits", "got also ['cat']"])
    words = "expected a record to keep, got none: 2 read, 0 kept, 0 duplicates, 2 under the minimum"
    refused([*line, low, "--min-confidence", "0.9"], capfd, says=words)
    line = ["harvest", "--records", low, "--labels-from"]
    refused([*line, "digits", "--out", tmp_path / "taken"], capfd, says="--overwrite replaces it")
    refused([*line, tmp_path / "none", "--out", tmp_path / "o"], capfd, says="nothing is there")
    assert contents(tmp_path) == before


def test_a_failed_harvest_leaves_the_old_one(pictures, tmp_path):
    folder = record(tmp_path / "r", pictures[:2])
    harvest(tmp_path / "h", folder)
    before = contents(tmp_path / "h")
    with pytest.raises(DataError):
        harvest(tmp_path / "h", folder, min_confidence=0.9, overwrite=True)
    assert contents(tmp_path / "h") == before
    harvest(tmp_path / "h", record(tmp_path / "s", pictures[5:6]), overwrite=True)
    assert contents(tmp_path / "h") != before


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_no_harvest(generator, tmp_path, capfd):
    noise = generator.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    folder = record(tmp_path / "r", noise)
    with mounted(tmp_path / "disk", "size=200k") as disk:
        line = ["harvest", "--records", folder, "--labels-from", "digits", "--out", disk / "out"]
        refused(line, capfd, says="no space is left in")
        assert not list(disk.iterdir())


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(pictures, tmp_path):
    folder = record(tmp_path / "r", pictures[:1])
    lines = folder / "records.jsonl"
    lines.write_bytes(lines.read_bytes() * 100_000)
    line = ["harvest", "--records", folder, "--labels-from", "digits", "--out", tmp_path / "o"]
    process = processes.start("train", *line)
    # Within it: Python itself leaves a folder that it has made and not noted yet.
    processes.wait_for(lambda: list(tmp_path.glob(".o-*/fresh")), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "python -m train: interrupted\n")
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_the_next_harvest_removes_what_a_kill_left(pictures, tmp_path):
    folder = record(tmp_path / "r", pictures[:1])
    lines = folder / "records.jsonl"
    few = lines.read_bytes()
    lines.write_bytes(few * 100_000)
    line = ["harvest", "--records", folder, "--labels-from", "digits", "--out", tmp_path / "o"]
    process = processes.start("train", *line)
    processes.wait_for(lambda: list(tmp_path.glob(".o-*/fresh")), process)
    process.kill()
    process.communicate(timeout=60)
    assert len(list(tmp_path.iterdir())) == 2
    lines.write_bytes(few)
    harvest(tmp_path / "o", folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o", "r"]


def deferred_pictures(folder, pictures):
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    return folder


@pytest.mark.slow
def test_from_recording_to_a_tuned_model_as_a_user_does_it(
    bundle, small_checkpoint, large_checkpoint, tmp_path, capsys
):
    # Pictures that neither digits' train nor its validation holds.
    unseen = data.load("digits", limit=60).test.array()
    folder = deferred_pictures(tmp_path / "day", [*unseen, *unseen[:10]])

    def train(*words):
        assert main("python -m train", COMMANDS, argv=[str(word) for word in words]) == 0
        return capsys.readouterr().out

    arguments = ["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]
    with running_server(arguments) as address:
        line = ["run", "--bundle", bundle, "--cloud", address, "--deadline-s", "20"]
        code, error, out = finish("edge_runtime", *line, "--record", tmp_path / "r", folder)
        assert code == 0, error
        with Cascade.open(bundle, cloud=address, deadline_s=20) as cascade:
            answers = [cascade(picture) for picture in unseen]
    clouds = [row for row, answer in enumerate(answers) if answer.source is Source.CLOUD]
    repeated = sum(row < 10 for row in clouds)
    assert len(clouds) > 5
    assert f"recorded {len(clouds) + repeated}, dropped 0" in out

    out = train(
        "harvest", "--records", tmp_path / "r", "--labels-from", bundle, "--out", tmp_path / "h"
    )
    counts = [int(n) for n in re.findall(r"\d+", out.rsplit(":", 1)[1])]
    assert counts == [len(clouds) + repeated, len(clouds), repeated, 0, 0]
    kept = data.load_train(str(tmp_path / "h"))
    wanted = Counter(answers[row].prediction for row in clouds)
    assert Counter(kept.labels.tolist()) == wanted
    assert {p.tobytes() for p in kept.array()} == {unseen[row].tobytes() for row in clouds}

    tuned = tmp_path / "tuned"
    line = ["tune", "--checkpoint", small_checkpoint, "--extra", tmp_path / "h", "--epochs", "2"]
    train(*line, "--out", tuned)
    assert open_checkpoint(tuned).labels == tuple(str(i) for i in range(10))
    recorded = json.loads((tuned / "training.json").read_text(encoding="utf-8"))
    assert recorded["settings"]["extra"] == str(tmp_path / "h")
    figures = train("evaluate", "--checkpoint", tuned, "--large", large_checkpoint)
    assert "acc(M_S)" in figures

    line = ["distill", "--teacher", large_checkpoint, "--extra", tmp_path / "h", "--epochs", "2"]
    out = train(*line, "--unlabelled", tmp_path / "r", "--out", tmp_path / "student")
    rows = len(data.load("digits").train) + len(clouds)
    assert f"of {rows} labels, teaches {len(clouds) + repeated} inputs without a label" in out
