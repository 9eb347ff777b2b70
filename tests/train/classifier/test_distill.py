"""Distillation: the loss, what may teach, and what is added to the training split."""

import json
import math
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tools import processes
from tools.processes import contents, mounted

from benchmarks.processes import running_server
from train import data
from train.__main__ import COMMANDS
from train.classifier.settings import DistillSettings, FitSettings
from train.classifier.teacher import (
    CheckpointTeacher,
    cache_file,
    open_checkpoint_teacher,
    open_server,
    soft_labels,
    teacher_logits,
)
from train.data import NO_LABEL
from train.errors import CheckpointError, DataError, OutputError, TeacherError
from train.models import build, open_checkpoint, save
from train.objectives import CrossEntropy, Distillation, Step

LABELS = [str(i) for i in range(10)]
start = partial(processes.start, "train")
train = partial(processes.finish, "train")


def loss_by_hand(student, teacher, labels, temperature, weight):
    """Hinton et al. 2015 in plain Python floats, summed over the rows."""

    def softmax(z):
        e = [math.exp(v - max(z)) for v in z]
        return [v / sum(e) for v in e]

    total = 0.0
    for z, t, y in zip(student, teacher, labels, strict=True):
        q = softmax([v / temperature for v in z])
        p = softmax([v / temperature for v in t])
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        total += weight * temperature**2 * kl
        if y != NO_LABEL:
            total -= (1 - weight) * math.log(softmax(z)[y])
    return total


STUDENT = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0], [2.0, 2.0, -4.0]]
TEACHER = [[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-1.0, 4.0, 0.0]]


def step(student, teacher, labels, items=None):
    teacher = torch.tensor(teacher)
    return Step(student, torch.tensor(labels), {"teacher": teacher}, items or len(labels))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, NO_LABEL, 2], [NO_LABEL] * 3])
@pytest.mark.parametrize(("temperature", "weight"), [(4.0, 0.9), (1.0, 0.5), (0.5, 0.0), (2, 1)])
def test_the_loss_is_that_of_the_formula(labels, temperature, weight):
    loss = Distillation(temperature, weight).loss(step(torch.tensor(STUDENT), TEACHER, labels))
    wanted = loss_by_hand(STUDENT, TEACHER, labels, temperature, weight) / 3
    assert loss.item() == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def test_weight_0_is_cross_entropy_and_a_student_like_the_teacher_costs_nothing():
    logits = torch.tensor(STUDENT)
    given = step(logits, TEACHER, [0, 1, 2])
    assert Distillation(4.0, 0.0).loss(given) == CrossEntropy().loss(given)
    assert Distillation(4.0, 1.0).loss(step(logits, STUDENT, [0, 1, 2])).item() < 1e-6


def test_a_class_the_teacher_rules_out_has_a_number_and_a_gradient():
    student = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    ruled_out = [[0.0, -math.inf, -math.inf]]
    loss = Distillation(1.0, 1.0).loss(step(student, ruled_out, [NO_LABEL]))
    loss.backward()
    # KL(onehot || q) = -log q_0, with gradient q - onehot.
    q = student.detach().softmax(-1)
    torch.testing.assert_close(loss.detach(), -q[0, 0].log())
    torch.testing.assert_close(student.grad, q - torch.tensor([[1.0, 0.0, 0.0]]))


def test_half_precision_logits_are_taken_as_float32_and_the_batch_stays_as_it_was():
    half = torch.tensor(STUDENT, dtype=torch.bfloat16)
    given = step(half, TEACHER, [0, NO_LABEL, 2])
    before = [t.clone() for t in (given.logits, given.labels, given.columns["teacher"])]
    loss = Distillation().loss(given)
    assert loss.dtype == torch.float32
    wanted = loss_by_hand(half.float().tolist(), TEACHER, [0, NO_LABEL, 2], 4.0, 0.9) / 3
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    for now, was in zip(
        (given.logits, given.labels, given.columns["teacher"]), before, strict=True
    ):
        assert torch.equal(now, was)


def test_settings_of_the_loss_without_sense_are_refused():
    for wrong in ({"temperature": 0.0}, {"temperature": math.nan}, {"weight": 1.5}):
        with pytest.raises(ValueError, match="expected"):
            Distillation(**wrong)


def test_a_servers_answer_becomes_a_soft_label():
    confidence = np.array([0.7, 1.0, 0.25], np.float32)
    found = np.exp(soft_labels(np.array([2, 0, 1]), confidence, 4))
    wanted = [[0.1, 0.1, 0.7, 0.1], [1, 0, 0, 0], [0.25] * 4]
    np.testing.assert_allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize("confidence", [math.nan, -0.1, 1.5])
def test_a_confidence_that_is_no_probability_does_not_teach(confidence):
    with pytest.raises(TeacherError, match="probability in"):
        soft_labels(np.array([0]), np.array([confidence], np.float32), 4)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", limit=40)


@pytest.fixture(scope="module")
def reversed_teacher(large_checkpoint, tmp_path_factory):
    """Return the large checkpoint with its classes, and the rows of its head, in reversed order."""
    path = tmp_path_factory.mktemp("teachers") / "reversed"
    checkpoint = open_checkpoint(large_checkpoint)
    head = checkpoint.model.classifier
    with torch.no_grad():
        head.weight.copy_(head.weight.flip(0))
        head.bias.copy_(head.bias.flip(0))
    names = LABELS[::-1]
    checkpoint.model.config.id2label = dict(enumerate(names))
    checkpoint.model.config.label2id = {name: i for i, name in enumerate(names)}
    save(checkpoint, path)
    return path


def test_a_teacher_of_the_same_classes_in_another_order_teaches_the_same(
    large_checkpoint, reversed_teacher, digits
):
    straight, turned = (
        open_checkpoint_teacher(str(path), digits.train, device="cpu")
        for path in (large_checkpoint, reversed_teacher)
    )
    assert turned.checkpoint.labels == tuple(LABELS[::-1])
    inputs = digits.train.inputs
    np.testing.assert_allclose(turned.logits(inputs), straight.logits(inputs), atol=1e-6)
    assert turned.key != straight.key


def test_teachers_that_do_not_fit_are_refused(digits, tmp_path):
    save(build("small-cnn", labels=list("abcdefghij"), image_size=(8, 8)), tmp_path / "letters")
    with pytest.raises(DataError, match=r"teacher of the 10 classes .* differs in \['0', '1'"):
        open_checkpoint_teacher(str(tmp_path / "letters"), digits.train, device="cpu")
    with pytest.raises(CheckpointError, match="nothing is at"):
        open_checkpoint_teacher(str(tmp_path / "none"), digits.train, device="cpu")
    texts = data.LabelledData(["a", "b"], np.array([0, 1]), ("0", "1"), ("a", "b"), "text")
    with pytest.raises(CheckpointError, match="expected a classifier of texts"):
        open_checkpoint_teacher(str(tmp_path / "letters"), texts, device="cpu")
    with (
        pytest.raises(TeacherError, match="expected pictures for the teacher"),
        open_server("localhost:1", "large", texts),
    ):
        pass


class Interrupted(CheckpointTeacher):
    """A teacher whose user loses patience after two chunks."""

    asked = 0

    def logits(self, inputs):
        Interrupted.asked += 1
        if Interrupted.asked > 2:
            raise KeyboardInterrupt
        return super().logits(inputs)


def test_what_an_interrupted_teacher_said_is_not_asked_again(large_checkpoint, tmp_path):
    rows = data.load("digits-more").train
    assert len(rows) > 2 * 256
    teacher = open_checkpoint_teacher(str(large_checkpoint), rows, device="cpu")
    cache = cache_file(tmp_path / "student")
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(Interrupted(**vars(teacher)), rows, cache)
    asked = []

    class Counting(CheckpointTeacher):
        def logits(self, inputs):
            asked.append(len(inputs))
            return super().logits(inputs)

    counting = Counting(**vars(teacher))
    wanted = teacher.logits(rows.inputs)
    np.testing.assert_allclose(teacher_logits(counting, rows, cache), wanted, atol=1e-5)
    assert asked == [len(rows) - 512]
    teacher_logits(counting, rows, cache)
    assert asked == [len(rows) - 512]
    assert [p.name for p in tmp_path.iterdir()] == [".student.teacher.npz"]


def test_answers_of_another_teacher_or_to_other_inputs_are_not_taken(
    large_checkpoint, small_checkpoint, digits, tmp_path
):
    cache = tmp_path / "cache.npz"
    for path in (large_checkpoint, small_checkpoint):
        teacher = open_checkpoint_teacher(str(path), digits.train, device="cpu")
        for part in (digits.train, digits.test):
            found = teacher_logits(teacher, part, cache)
            np.testing.assert_allclose(found, teacher.logits(part.inputs), atol=1e-6)
    cache.write_bytes(cache.read_bytes()[:100])
    found = teacher_logits(teacher, digits.test, cache)
    np.testing.assert_allclose(found, teacher.logits(digits.test.inputs), atol=1e-6)


def test_a_teacher_that_is_broken_is_said(large_checkpoint, digits, tmp_path):
    teacher = open_checkpoint_teacher(str(large_checkpoint), digits.train, device="cpu")
    with torch.no_grad():
        teacher.checkpoint.model.classifier.bias[3] = math.nan
    with pytest.raises(TeacherError, match="got NaN"):
        teacher_logits(teacher, digits.train, tmp_path / "cache.npz")
    assert not list(tmp_path.iterdir())


def write_pictures(folder, pictures):
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")


def test_pictures_without_labels_are_found_in_any_folder(pictures, digits, tmp_path):
    write_pictures(tmp_path / "flat", pictures[:3])
    write_pictures(tmp_path / "deep" / "monday" / "morning", pictures[:4])
    write_pictures(tmp_path / "split" / "train" / "cat", pictures[:5])
    write_pictures(tmp_path / "split" / "test" / "cat", pictures[:6])
    for name, count in (("flat", 3), ("deep", 4), ("split", 5)):
        found = data.load_unlabelled(str(tmp_path / name), digits.label_names)
        assert found.labels.tolist() == [NO_LABEL] * count
        np.testing.assert_array_equal(found.inputs[2], pictures[2])
    assert len(data.load_unlabelled(str(tmp_path / "deep"), digits.label_names, limit=2)) == 2


def test_tables_without_labels_are_data_without_labels(pictures, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    texts = data.load_unlabelled(str(tmp_path / "texts.jsonl"), ("x", "y"))
    assert (texts.kind, list(texts.inputs), len(set(texts.ids))) == ("text", ["a", "b"], 2)
    rows = {"image": [Image.fromarray(p) for p in pictures[:3]]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-0.parquet")
    found = data.load_unlabelled(str(tmp_path), ("x", "y"))
    np.testing.assert_array_equal(found.inputs[1], pictures[1])
    assert len(data.load_unlabelled("digits-more", tuple(LABELS))) == 629


def test_what_holds_no_inputs_is_refused(digits, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("colour,label\nred,a\n")
    for name, says in (("empty", "expected pictures"), ("table.csv", r"expected a column image")):
        with pytest.raises(DataError, match=says):
            data.with_unlabelled(digits, str(tmp_path / name))
    with pytest.raises(DataError, match="nothing is there"):
        data.with_unlabelled(digits, str(tmp_path / "none"))
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match=r"expected images as in the data, got texts"):
        data.with_unlabelled(digits, str(tmp_path / "texts.jsonl"))


def write_table(path, pictures, labels, names):
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    rows = {"image": [Image.fromarray(p) for p in pictures], "label": labels}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    table.to_parquet(path)
    return str(path)


def test_extra_rows_join_train_alone_with_their_classes_matched_by_name(pictures, digits, tmp_path):
    name = write_table(tmp_path / "a.parquet", pictures[:3], [0, 1, 0], ["7", "2"])
    more = data.with_extra(digits, name)
    assert more.train.labels.tolist() == [*digits.train.labels.tolist(), 7, 2, 7]
    assert len(set(more.train.ids)) == len(digits.train) + 3
    for row in (0, len(digits.train) - 1):
        np.testing.assert_array_equal(more.train.inputs[row], digits.train.inputs[row])
    np.testing.assert_array_equal(more.train.inputs[len(digits.train) + 2], pictures[2])
    np.testing.assert_array_equal(more.train.inputs[-3:][1], pictures[1])
    assert more.validation is digits.validation
    assert more.test is digits.test
    assert data.with_extra(digits, None) is digits


def test_extra_rows_of_other_classes_or_another_kind_are_refused(pictures, digits, tmp_path):
    name = write_table(tmp_path / "a.parquet", pictures[:2], [0, 1], ["7", "cat"])
    with pytest.raises(DataError, match=r"only the 10 classes .* got also \['cat'\]"):
        data.with_extra(digits, name)
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "label": "7"}\n')
    with pytest.raises(DataError, match="expected images as in the data"):
        data.with_extra(digits, str(tmp_path / "texts.jsonl"))


def test_a_label_of_minus_100_in_a_table_is_refused(pictures, tmp_path):
    rows = {"image": [Image.fromarray(p) for p in pictures[:4]], "label": [0, 1, 0, -100]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="label in every row"):
        data.load(str(tmp_path / "a.parquet"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Return the folder of a ResNet that knows its digits."""
    out = tmp_path_factory.mktemp("taught") / "large"
    FitSettings(model="resnet-20", data="digits-more", out=out, epochs=8).run()
    return out


@pytest.mark.slow
def test_a_student_learns_from_inputs_without_labels(taught, tmp_path, capsys):
    settings = {"teacher": str(taught), "unlabelled": "digits-more", "epochs": 20, "limit": 300}
    DistillSettings(out=tmp_path / "small", weight=1.0, **settings).run()
    test = data.load("digits", limit=200).test
    teacher, student = (
        open_checkpoint(p).predict(test.inputs) for p in (taught, tmp_path / "small")
    )
    assert (student.argmax(-1) == teacher.argmax(-1)).mean() > 0.8
    assert "of 90 labels, teaches 300 inputs without a label" in capsys.readouterr().out
    record = json.loads((tmp_path / "small" / "training.json").read_text())
    assert record["command"] == "distill"
    # What the teacher said is kept until the student is written, and no longer.
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_student(large_checkpoint, tmp_path):
    settings = {"teacher": str(large_checkpoint), "epochs": 2, "limit": 40, "unlabelled": "digits"}
    for name in "ab":
        DistillSettings(out=tmp_path / name, **settings).run()
    test = data.load("digits", limit=20).test
    first, second = (open_checkpoint(tmp_path / n).predict(test.inputs) for n in "ab")
    np.testing.assert_array_equal(first, second)
    with pytest.raises(OutputError, match="--overwrite"):
        DistillSettings(out=tmp_path / "a", **settings).run()


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def address(large_checkpoint):
    with running_server(["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]) as it:
        yield it


@pytest.mark.slow
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
    assert open_checkpoint(tmp_path / "small").labels == tuple(LABELS)


@pytest.mark.slow
def test_pictures_of_several_sizes_are_sent_by_size(address, digits, generator):
    sizes = [(8, 8), (9, 7), (8, 8), (9, 7), (12, 12)]
    mixed = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    with open_server(address, "large", digits.train) as server:
        together = server.logits(mixed)
        for row, picture in enumerate(mixed):
            np.testing.assert_allclose(server.logits([picture])[0], together[row], atol=1e-4)


@pytest.mark.slow
def test_a_server_that_cannot_teach_is_said(address, small_checkpoint, pictures, tmp_path, capfd):
    refused = partial(processes.refused_here, "train", COMMANDS)
    line = ["distill", "--out", tmp_path / "o", "--limit", "20", "--teacher"]
    refused([*line, "127.0.0.1:9"], capfd, says=["expected the teacher to answer at 127.0.0.1:9"])
    refused([*line, address, "--teacher-model", "huge"], capfd, says="'huge' is not served")
    refused([*line, "192.0.2.1:8001"], capfd, says="another machine")
    names = ["cat", "dog"]
    pets = write_table(tmp_path / "train.parquet", [*pictures[:20]], [0, 1] * 10, names)
    refused([*line, address, "--data", pets], capfd, says="none of the edge model's 2")
    (tmp_path / "train.parquet").unlink()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_lost_connection_costs_only_what_was_not_answered(large_checkpoint, tmp_path):
    out = tmp_path / "small"
    rows = data.load("digits-more").train
    asked = cache_file(out)
    arguments = ["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]
    with running_server(arguments) as address, open_server(address, "large", rows) as server:

        class Lost(type(server)):
            def logits(self, inputs):
                if len(inputs) != 256 or inputs[0] is not rows.inputs[0]:
                    self.cloud.close()
                return super().logits(inputs)

        with pytest.raises(TeacherError, match="what it answered so far is kept"):
            teacher_logits(Lost(**vars(server)), rows, asked)
    with np.load(asked) as kept:
        assert int(kept["done"]) == 256


@pytest.mark.slow
def test_kill_9_in_the_training_asks_the_teacher_no_second_time(large_checkpoint, tmp_path):
    out = tmp_path / "small"
    arguments = ["cloud_stub", "--checkpoint", str(large_checkpoint), "--port", "0"]
    with running_server(arguments) as address:
        line = ["distill", "--teacher", address, "--out", out, "--patience", "400", "--epochs"]
        process = start(*line, "100000")
        work = tmp_path / ".small.training"
        processes.wait_for(lambda: list(work.glob("checkpoint-*/trainer_state.json")), process)
        process.kill()
        process.communicate(timeout=60)
    assert not out.exists()
    # The server is gone: all that it had to say is there.
    code, error, _ = train(*line, "60", "--resume")
    assert code == 0, error
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


@pytest.mark.slow
def test_a_full_disk_is_said_before_the_training(large_checkpoint, tmp_path, capfd):
    refused = partial(processes.refused_here, "train", COMMANDS)
    with mounted(tmp_path / "disk", "size=4k") as disk:
        line = ["distill", "--teacher", large_checkpoint, "--out", disk / "out"]
        refused(line, capfd, says="no space is left in")
        assert not list(disk.iterdir())


@pytest.mark.slow
def test_mistakes_are_one_line_and_leave_nothing(large_checkpoint, tmp_path, capfd):
    refused = partial(processes.refused_here, "train", COMMANDS)
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
