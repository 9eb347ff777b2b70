"""Gates by hand, the temperature against a grid, and scores that survive the way to disk."""

import math

import numpy as np
import pytest

from edge_runtime import metrics
from train import data
from train.comparison.scores import (
    GATES,
    MIRROR_BAND,
    Views,
    fit_temperature,
    load_scores,
    save_scores,
    score,
)
from train.errors import DataError
from train.models import open_checkpoint

LN3 = math.log(3)
# Softmax (3/5, 1/5, 1/5) and, for the second view, (1/5, 3/5, 1/5).
VIEWS = Views(np.array([[LN3, 0.0, 0.0]]), np.array([[0.0, LN3, 0.0]]), temperature=2.0)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("max_softmax", 2 / 5),
        ("entropy", -(3 / 5 * math.log(3 / 5) + 2 / 5 * math.log(1 / 5))),
        ("margin", -(3 / 5 - 1 / 5)),
        ("max_logit", -LN3),
        # Halved logits: weights sqrt(3), 1, 1.
        ("temperature", 2 / (2 + math.sqrt(3))),
        # The first view's class has 3/5 there and 1/5 in the mirror.
        ("mirror", 1 - (3 / 5 + 1 / 5) / 2),
    ],
)
def test_a_gate_by_hand(name, wanted):
    assert GATES[name].uncertainty(VIEWS)[0] == pytest.approx(wanted)


def test_every_gate_names_its_source_and_its_cost():
    assert all(gate.source and gate.passes == 1 + gate.needs_second for gate in GATES.values())


def test_doubt_keeps_the_digits_that_a_confidence_next_to_one_loses():
    logits = np.array([[60.0, 0.0], [61.0, 0.0]])
    doubt = GATES["max_softmax"].uncertainty(Views(logits, None, 1.0))
    assert doubt == pytest.approx(np.exp([-60.0, -61.0]))
    confidence = metrics.max_softmax(logits)
    assert confidence[0] == confidence[1] == 1.0


def test_the_temperature_has_the_least_cross_entropy(generator):
    truth = generator.normal(size=(4000, 5)) * 2
    p = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) < generator.random((4000, 1))).sum(axis=1)
    # Logits three times too large: dividing by three makes them honest again.
    assert fit_temperature(3 * truth, labels) == pytest.approx(3.0, rel=0.05)


def test_scores_are_of_every_input_and_come_back_from_disk(small_checkpoint, tmp_path):
    splits = data.load("digits", limit=60)
    checkpoint = open_checkpoint(small_checkpoint)
    scores = score(checkpoint, splits, ratio=0.3)
    save_scores(tmp_path / "a.npz", scores)
    again = load_scores(tmp_path / "a.npz")
    logits = checkpoint.predict(splits.test.inputs)
    np.testing.assert_array_equal(again.right["test"], logits.argmax(1) == splits.test.labels)
    np.testing.assert_allclose(
        again.uncertainty["test"]["max_softmax"], 1 - metrics.max_softmax(logits), rtol=1e-5
    )
    for split in ("validation", "test"):
        for gate in (*GATES, MIRROR_BAND):
            np.testing.assert_array_equal(
                again.uncertainty[split][gate], scores.uncertainty[split][gate]
            )
    # Ten percentile ranks either way of 60 inputs: a fifth of them is looked at twice.
    one, two, band = (
        again.uncertainty["validation"][g] for g in ("max_softmax", "mirror", MIRROR_BAND)
    )
    assert (band != one).sum() <= 12
    assert set(band[band != one]) <= set(two)


def test_damaged_scores_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="scores of a sweep"):
        load_scores(tmp_path / "a.npz")
