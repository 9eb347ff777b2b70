"""Teachers: their answers in the order of the student, asked once each."""

import math

import numpy as np
import pytest
import torch

from train import data
from train.classifier.teacher import (
    CheckpointTeacher,
    cache_file,
    open_checkpoint_teacher,
    open_server,
    soft_labels,
    teacher_logits,
)
from train.errors import CheckpointError, DataError, TeacherError
from train.models import build, open_checkpoint, save

LABELS = [str(i) for i in range(10)]


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


@pytest.mark.slow
def test_a_lost_connection_costs_only_what_was_not_answered(address, tmp_path):
    out = tmp_path / "small"
    rows = data.load("digits-more").train
    asked = cache_file(out)
    with open_server(address, "large", rows) as server:

        class Lost(type(server)):
            def logits(self, inputs):
                if len(inputs) != 256 or inputs[0] is not rows.inputs[0]:
                    self.cloud.close()
                return super().logits(inputs)

        with pytest.raises(TeacherError, match="the answers so far are kept"):
            teacher_logits(Lost(**vars(server)), rows, asked)
    with np.load(asked) as kept:
        assert int(kept["done"]) == 256
