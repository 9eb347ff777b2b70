"""The command `distill`: a student learns from a checkpoint, or from a server."""

import json
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tools import processes
from tools.processes import contents, mounted

from train import data
from train.__main__ import COMMANDS
from train.classifier.settings import DistillSettings
from train.classifier.teacher import ServerTeacher, open_server
from train.errors import OutputError
from train.models import open_checkpoint

pytestmark = pytest.mark.slow

refused = partial(processes.refused_here, "train", COMMANDS)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=40)


def write_table(path, pictures, labels, names):
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    rows = {"image": [Image.fromarray(p) for p in pictures], "label": labels}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    table.to_parquet(path)
    return str(path)


def test_a_student_learns_from_inputs_without_labels(models, tmp_path, capsys):
    settings = {"teacher": str(models[1]), "unlabelled": "digits-more", "epochs": 12, "limit": 300}
    DistillSettings(out=tmp_path / "small", weight=1.0, **settings).run()
    test = data.load("digits", limit=200).test
    teacher, student = (
        open_checkpoint(p).predict(test.inputs) for p in (models[1], tmp_path / "small")
    )
    assert (student.argmax(-1) == teacher.argmax(-1)).mean() > 0.8
    assert "of 90 labels, teaches 300 inputs without a label" in capsys.readouterr().out
    record = json.loads((tmp_path / "small" / "training.json").read_text())
    assert record["command"] == "distill"
    # The teacher's answers are kept until the student is written, and no longer.
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_the_same_seed_gives_the_same_student(large_checkpoint, tmp_path):
    settings = {"teacher": str(large_checkpoint), "epochs": 2, "limit": 40, "unlabelled": "digits"}
    for name in "ab":
        DistillSettings(out=tmp_path / name, **settings).run()
    test = data.load("digits", limit=20).test
    first, second = (open_checkpoint(tmp_path / n).predict(test.inputs) for n in "ab")
    np.testing.assert_array_equal(first, second)
    with pytest.raises(OutputError, match="--overwrite"):
        DistillSettings(out=tmp_path / "a", **settings).run()


def test_a_batch_without_a_label_has_a_finite_loss(large_checkpoint, tmp_path):
    # 20 labelled rows among 320, 4 a step: most steps see no label at all.
    DistillSettings(
        teacher=str(large_checkpoint),
        out=tmp_path / "small",
        epochs=1,
        limit=20,
        batch_size=4,
        unlabelled=write_table(
            tmp_path / "a.parquet", np.zeros((300, 8, 8, 3), np.uint8), [0] * 300, ["x"]
        ),
    ).run()
    weights = open_checkpoint(tmp_path / "small").model.state_dict().values()
    assert all(torch.isfinite(w).all() for w in weights if w.is_floating_point())


def test_a_running_server_teaches_its_class_and_confidence(
    address, large_checkpoint, digits, tmp_path
):
    p = torch.from_numpy(open_checkpoint(large_checkpoint).predict(digits.train.inputs)).softmax(-1)
    with open_server(address, "large", digits.train) as server:
        found = np.exp(server.logits(digits.train.inputs))
    for row, (predicted, sure) in enumerate(zip(p.argmax(-1), p.amax(-1), strict=True)):
        assert found[row].argmax() == predicted
        assert found[row].max() == pytest.approx(sure.item(), rel=1e-4)
        others = np.delete(found[row], predicted)
        np.testing.assert_allclose(others, (1 - sure.item()) / 9, rtol=1e-3)
    DistillSettings(teacher=address, out=tmp_path / "small", epochs=1, limit=40).run()
    assert open_checkpoint(tmp_path / "small").labels == tuple("0123456789")


def test_pictures_of_several_sizes_are_sent_by_size(address, digits, generator):
    sizes = [(8, 8), (9, 7), (8, 8), (9, 7), (12, 12)]
    mixed = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    with open_server(address, "large", digits.train) as server:
        together = server.logits(mixed)
        for row, picture in enumerate(mixed):
            np.testing.assert_allclose(server.logits([picture])[0], together[row], atol=1e-4)


def test_a_server_that_cannot_teach_is_refused(
    address, small_checkpoint, pictures, tmp_path, capfd
):
    line = ["distill", "--out", tmp_path / "o", "--limit", "20", "--teacher"]
    refused([*line, "127.0.0.1:9"], capfd, says=["expected the teacher to answer at 127.0.0.1:9"])
    refused([*line, address, "--teacher-model", "huge"], capfd, says="'huge' is not served")
    refused([*line, "192.0.2.1:8001"], capfd, says="another machine")
    names = ["cat", "dog"]
    pets = write_table(tmp_path / "train.parquet", [*pictures[:20]], [0, 1] * 10, names)
    refused([*line, address, "--data", pets], capfd, says="none of the edge model's 2")
    (tmp_path / "train.parquet").unlink()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_training_does_not_ask_the_server_again(address, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    student = DistillSettings(teacher=address, out=tmp_path / "small", epochs=1, limit=40)
    with monkeypatch.context() as patch:
        patch.setattr("train.classifier.stage1.train_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            student.run()
    monkeypatch.setattr(ServerTeacher, "logits", interrupt)
    student.run()
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_a_full_disk_is_reported_before_the_training(large_checkpoint, tmp_path, capfd):
    with mounted(tmp_path / "disk", "size=4k") as disk:
        line = ["distill", "--teacher", large_checkpoint, "--out", disk / "out"]
        refused(line, capfd, says="no space is left in")
        assert not list(disk.iterdir())


def test_mistakes_are_one_line_and_leave_nothing(large_checkpoint, tmp_path, capfd):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    line = ["distill", "--teacher", large_checkpoint, "--out"]
    refused([*line, tmp_path / "taken"], capfd, says="--overwrite replaces it")
    refused([*line, tmp_path / "o", "--unlabelled", tmp_path / "empty"], capfd, says="pictures")
    refused([*line, tmp_path / "o", "--extra", tmp_path / "none"], capfd, says="nothing is there")
    refused([*line, tmp_path / "o", "--model", "small-cn"], capfd, says="one of small-cnn")
    refused(
        ["distill", "--teacher", tmp_path / "none", "--out", tmp_path / "o"],
        capfd,
        says="nothing is at",
    )
    assert contents(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "taken"]
