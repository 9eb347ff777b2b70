"""Confidences of generated sequences, against values by hand and plain formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_runtime.errors import InputError
from edge_runtime.metrics import SEQUENCE_KINDS, sequence_confidence, unit_sequence_confidence

# Two tokens: fair among four (log 1/4, entropy log 4), then sure of one (log 1, entropy 0).
QUARTER = -math.log(4)
ENTROPY, LOGPROB = [QUARTER, 0.0], [QUARTER, 0.0]
BY_HAND = {
    "neg_entropy": -0.693147180559945,  # (-log 4 + 0) / 2 = -log 2
    "mean_logprob": -0.693147180559945,
    "sum_logprob": -1.386294361119891,  # log(1/4 * 1)
    "min_prob": 0.25,
    "max_softmax": 0.25,
}
UNIT_BY_HAND = {  # with a vocabulary of four
    "neg_entropy": 0.5,  # 1 - log 2 / log 4
    "mean_logprob": 0.5,  # the geometric mean of 1/4 and 1
    "sum_logprob": 0.25,
    "min_prob": 0.25,
    "max_softmax": 0.25,
}
FILLING = st.sampled_from([0.0, 1.0, -7.5, math.nan, math.inf, -math.inf])


def confidence(kind, neg_entropy, logprob, counted):
    return sequence_confidence(kind, neg_entropy=neg_entropy, logprob=logprob, counted=counted)


def plain(kind, entropies, logs):
    """Return the confidence of one answer by its definition, token by token."""
    if not logs:
        return math.nan
    products = [math.exp(v) for v in logs]
    return {
        "neg_entropy": math.fsum(entropies) / len(entropies),
        "mean_logprob": math.fsum(logs) / len(logs),
        "sum_logprob": math.fsum(logs),
        "min_prob": math.nan if any(map(math.isnan, products)) else min(products),
        "max_softmax": products[0],
    }[kind]


@st.composite
def answers(draw, *, vocabulary=50):
    """Draw (neg_entropy, logprob, counted), the tokens counted from the first on."""
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6))
    bounded = st.floats(-math.log(vocabulary), 0.0)
    entropies = draw(arrays.arrays(np.float64, shape, elements=bounded))
    logs = draw(arrays.arrays(np.float64, shape, elements=st.floats(-40.0, 0.0)))
    lengths = draw(arrays.arrays(np.int64, shape[0], elements=st.integers(0, shape[1])))
    return entropies, logs, np.arange(shape[1]) < lengths[:, None]


def test_every_kind_is_tested_here():
    assert set(SEQUENCE_KINDS) == set(BY_HAND) == set(UNIT_BY_HAND)


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_confidence_is_what_it_is_by_hand(kind):
    value = confidence(kind, [ENTROPY], [LOGPROB], [[True, True]])
    np.testing.assert_allclose(value, [BY_HAND[kind]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", UNIT_BY_HAND)
def test_a_confidence_in_0_to_1_is_what_it_is_by_hand(kind):
    value = unit_sequence_confidence(kind, [BY_HAND[kind]], 4)
    np.testing.assert_allclose(value, [UNIT_BY_HAND[kind]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
@settings(max_examples=30)  # for each of five kinds
@given(drawn=answers())
def test_a_confidence_follows_its_definition(kind, drawn):
    wanted = [
        plain(kind, e[flags].tolist(), log[flags].tolist())
        for e, log, flags in zip(*drawn, strict=True)
    ]
    np.testing.assert_allclose(confidence(kind, *drawn), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
@settings(max_examples=30)  # for each of five kinds
@given(drawn=answers(), data=st.data())
def test_what_is_not_counted_may_hold_anything(kind, drawn, data):
    entropies, logs, counted = drawn
    noise = data.draw(arrays.arrays(np.float64, counted.shape, elements=FILLING))
    filled = confidence(
        kind, np.where(counted, entropies, noise), np.where(counted, logs, noise), counted
    )
    np.testing.assert_array_equal(filled, confidence(kind, *drawn))


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
@settings(max_examples=30)  # for each of five kinds
@given(drawn=answers(vocabulary=50))
def test_a_unit_confidence_lies_in_0_to_1_and_keeps_the_order(kind, drawn):
    g = confidence(kind, *drawn)
    g = np.sort(g[~np.isnan(g)])
    unit = unit_sequence_confidence(kind, g, 50)
    assert np.all((unit >= -1e-12) & (unit <= 1.0))
    assert np.all(np.diff(unit) >= 0.0)


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_an_answer_without_tokens_has_no_confidence(kind):
    assert np.isnan(confidence(kind, [ENTROPY], [LOGPROB], [[False, False]])).all()
    nothing = np.empty((3, 0))
    assert np.isnan(confidence(kind, nothing, nothing, nothing)).tolist() == [True] * 3
    assert confidence(kind, np.empty((0, 4)), np.empty((0, 4)), np.empty((0, 4))).shape == (0,)


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("broken", ["neg_entropy", "logprob"])
def test_a_nan_in_any_token_leaves_no_confidence_to_pass_a_threshold(kind, at, broken):
    values = {"neg_entropy": np.array([ENTROPY]), "logprob": np.array([LOGPROB])}
    values[broken][0, at] = math.nan
    value = confidence(kind, **values, counted=[[True, True]])
    assert not value >= -math.inf
    assert not unit_sequence_confidence(kind, value, 4) >= -math.inf


def test_an_impossible_token_makes_an_answer_impossible():
    impossible = [0.0, -math.inf]
    values = {
        kind: confidence(kind, [[0.0, 0.0]], [impossible], [[True, True]]).item()
        for kind in SEQUENCE_KINDS
    }
    assert values == {
        "neg_entropy": 0.0,
        "mean_logprob": -math.inf,
        "sum_logprob": -math.inf,
        "min_prob": 0.0,
        "max_softmax": 1.0,
    }
    for kind in ("mean_logprob", "sum_logprob"):
        assert unit_sequence_confidence(kind, [values[kind]], 4).item() == 0.0


@pytest.mark.parametrize("kind", SEQUENCE_KINDS)
def test_with_a_vocabulary_of_1_every_answer_is_sure(kind):
    value = confidence(kind, [[0.0, 0.0]], [[0.0, 0.0]], [[True, True]])
    assert unit_sequence_confidence(kind, value, 1).tolist() == [1.0]


def test_max_softmax_is_of_the_first_counted_token():
    logs = np.log([[0.5, 0.25, 0.75]])
    value = confidence("max_softmax", logs, logs, [[False, True, True]])
    np.testing.assert_allclose(value, [0.25], rtol=1e-15)


def test_single_precision_is_reckoned_with_in_double():
    logs = np.full((1, 3), -1e-8, np.float32)
    assert confidence("sum_logprob", logs, logs, np.ones((1, 3)))[0] == pytest.approx(-3e-8)
    assert confidence("min_prob", logs, logs, np.ones((1, 3))).dtype == np.float64


@pytest.mark.parametrize(
    ("kind", "logprob", "counted", "message"),
    [
        ("entropy", [LOGPROB], [[1, 1]], "expected one of neg_entropy, mean_logprob"),
        ("min_prob", [LOGPROB], [[1]], r"\[1, 2\], \[1, 2\] and \[1, 1\]"),
        ("min_prob", [[0.0]], [[1, 1]], r"\[1, 2\], \[1, 1\] and \[1, 2\]"),
        ("min_prob", [["a", "b"]], [[1, 1]], "logprob as an array of real numbers"),
        ("min_prob", [LOGPROB], [[1, 1], [1]], "counted as an array of real numbers"),
    ],
)
def test_arrays_of_different_shapes_are_refused(kind, logprob, counted, message):
    with pytest.raises(InputError, match=message):
        confidence(kind, [ENTROPY], logprob, counted)


def test_scalars_are_refused():
    with pytest.raises(InputError, match="of one shape"):
        confidence("min_prob", 0.0, 0.0, 1)


@pytest.mark.parametrize(
    ("kind", "vocabulary", "message"),
    [("entropy", 4, "expected one of"), ("min_prob", 0, "at least 1 token")],
)
def test_a_unit_confidence_of_an_unknown_kind_or_no_vocabulary_is_refused(
    kind, vocabulary, message
):
    with pytest.raises(InputError, match=message):
        unit_sequence_confidence(kind, [0.5], vocabulary)
