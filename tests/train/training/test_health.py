"""Tuning that would do harm is warned of, stopped, or ended with the last good weights."""

import math

import numpy as np
import pytest

from train.training.health import Health, balance, warnings_before

pytestmark = pytest.mark.once


def test_the_balance_of_right_and_wrong_by_hand():
    # Three of four right at alpha 1/4: (1/4 * 3/4) / (3/4 * 1/4).
    assert balance(0.25, 0.75) == pytest.approx(1.0)
    assert balance(0.0, 0.75) == 0.0
    assert balance(1.0, 0.75) == math.inf
    assert balance(0.5, 1.0) == math.inf


def flags(right, wrong):
    return np.repeat([True, False], [right, wrong])


@pytest.mark.parametrize(
    ("alpha", "right", "wrong", "says"),
    [
        (0.5, 900, 200, []),
        (0.5, 900, 19, ["wrong on 19 of 919"]),
        (0.5, 9900, 100, []),
        (0.5, 9901, 99, ["wrong on 99 of 10000"]),
        (0.5, 900, 0, ["wrong on 0 of 900"]),
        (0.1, 700, 300, [r"rho = 0.26", "above 0.30"]),
        (0.0, 700, 300, ["rho = 0.00"]),
        (1.0, 700, 300, []),
    ],
)
def test_what_cannot_teach_is_warned_of(alpha, right, wrong, says):
    found = " ".join(warnings_before(alpha, flags(right, wrong)))
    assert all(text in found for text in says)
    assert bool(found) == bool(says)


def test_a_class_with_most_predictions_is_a_collapse_unless_it_has_the_labels():
    labels = np.repeat([0, 1, 2, 3], 25)
    start = Health.of(labels, labels)
    collapsed = np.where(np.arange(100) < 60, 0, labels)
    assert "60% of the predictions" in Health.of(collapsed, labels).illness(start)
    # Two thirds of these labels are of class 0, and so may as many predictions be.
    unequal = np.repeat([0, 1], [66, 34])
    assert Health.of(unequal, unequal).illness(Health.of(unequal, unequal)) is None


def test_losing_more_than_ten_points_is_a_collapse():
    labels = np.repeat([0, 1, 2, 3], 25)
    start = Health.of(labels, labels)
    for lost, ill in ((10, False), (11, True)):
        predicted = labels.copy()
        predicted[:lost] = 1
        assert (Health.of(predicted, labels).illness(start) is not None) == ill
