"""The rule of a second look: the mean of two views, for inputs ranked near the threshold."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime import metrics
from edge_runtime.errors import InputError

INF, NAN = float("inf"), float("nan")


def test_inputs_in_the_band_get_the_mean_of_both_views():
    first, second = [0.2, 0.4, 0.6, 0.8], [0.0, 0.2, 1.0, 0.0]
    np.testing.assert_allclose(metrics.second_look(first, second, 0.4, 0.6), [0.2, 0.3, 0.8, 0.8])
    np.testing.assert_allclose(metrics.second_look(first, second, -INF, INF), [0.1, 0.3, 0.8, 0.4])
    np.testing.assert_allclose(metrics.second_look(first, second, INF, -INF), first)


def test_a_nan_stays_one():
    first, second = [NAN, 0.5, 0.9], [0.5, NAN, NAN]
    looked = metrics.second_look(first, second, 0.4, 0.6)
    assert np.isnan(looked).tolist() == [True, True, False]
    assert metrics.in_band(first, -INF, INF).tolist() == [False, True, True]


TENTHS = np.arange(10) / 10


@pytest.mark.parametrize(
    ("ratio", "band", "limits"),
    [
        (0.3, 0.1, (0.2, 0.3)),  # two of ten: ranks 0.2 to 0.4
        (0.3, 0.2, (0.1, 0.4)),
        (0.3, 0.3, (-INF, 0.5)),  # down to rank 0: whatever is less sure is in it as well
        (0.3, 0.7, (-INF, INF)),
        (0.9, 0.1, (0.8, INF)),
        (0.0, 0.1, (-INF, 0.0)),
        (1.0, 0.1, (0.9, INF)),
        (0.25, 1.0, (-INF, INF)),
        (0.25, INF, (-INF, INF)),
        (0.3, 0.0, (INF, -INF)),
        (1.0, 1e-12, (0.9, INF)),
        (0.0, 1e-12, (-INF, 0.0)),
    ],
)
def test_the_band_is_one_of_ranks(ratio, band, limits):
    assert metrics.band_limits(TENTHS[::-1], ratio, band) == limits


def test_nan_has_the_lowest_rank():
    # Ranks 0.2 to 0.4 of ten are the third and the fourth: the first two are NaN.
    g = np.array([NAN, 0.5, 0.6, NAN, *np.arange(1, 7)])
    assert metrics.band_limits(g, 0.3, 0.1) == (0.5, 0.6)


@settings(max_examples=50)
@given(
    g=st.lists(st.floats(0, 1), min_size=1, max_size=30, unique=True),
    ratio=st.floats(0, 1),
    band=st.floats(1e-6, 2),
)
@example(g=[0.5], ratio=0.5, band=0.1)
def test_the_band_holds_its_share_of_the_inputs(g, ratio, band):
    found = metrics.in_band(g, *metrics.band_limits(g, ratio, band)).sum()
    wanted = (min(ratio + band, 1) - max(ratio - band, 0)) * len(g)
    assert wanted - 1e-6 <= found <= wanted + 2  # an input that is in it in part is in it


def test_the_probability_of_a_class_is_its_softmax():
    logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(metrics.probability_of(logits, [1, 2]), [0.3, 0.8])
    z = np.array([[1e4, 0.0], [-INF, -INF], [NAN, 0.0]])
    np.testing.assert_array_equal(metrics.probability_of(z, [1, 0, 1]), [0.0, NAN, NAN])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.second_look([0.1], [0.1, 0.2], 0, 1), "expected 1 values of second"),
        (lambda: metrics.band_limits([], 0.3, 0.1), "n >= 1"),
        (lambda: metrics.band_limits([0.1], 1.3, 0.1), "ratio in [0, 1], got 1.3"),
        (lambda: metrics.band_limits([0.1], 0.3, NAN), "at least 0 ranks, got nan"),
        (lambda: metrics.probability_of([[0.0, 1.0]], [2]), "classes from 0 to 1, got 2"),
        (lambda: metrics.probability_of([[0.0, 1.0]], [0, 1]), "n whole numbers"),
        (lambda: metrics.probability_of([[0.0, 1.0]], [0.5]), "got [1, 2] and float64"),
    ],
)
def test_what_does_not_belong_together_is_refused(call, words):
    with pytest.raises(InputError) as refused:
        call()
    assert words in str(refused.value)
