"""The distillation loss against the formula in plain Python."""

import math

import pytest
import torch

from train.data import NO_LABEL
from train.objectives import CrossEntropy, Distillation, Step

pytestmark = pytest.mark.once


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
