"""Goals: thresholds against an exhaustive search, guarantees against known populations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.calibration import LeastCost, MaxHarm, MaxRisk, Sample, TargetAccuracy, calibrate
from export.errors import CalibrationError

pytestmark = pytest.mark.once

rows = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=40)


def _sample(drawn):
    grid, right, large = (np.array(column) for column in zip(*drawn, strict=True))
    return Sample(grid.astype(np.float32) / 8, right, large)


def _separated(n, draws, *, accuracy=0.8):
    right = draws.random(n) < accuracy
    confidence = np.where(right, draws.beta(6, 1.5, n), draws.beta(2.5, 2.5, n))
    return Sample(confidence.astype(np.float32), right, draws.random(n) < 0.95)


@given(rows, st.sampled_from([0.5, 0.75, 0.9, 1.0]))
def test_the_lowest_threshold_with_the_accuracy_is_taken(drawn, accuracy):
    sample = _sample(drawn)
    reaching = [
        t
        for t in np.unique(sample.confidence)
        if sample.right[sample.confidence >= t].mean() >= accuracy
    ]
    if not reaching:
        with pytest.raises(CalibrationError, match="the best has"):
            TargetAccuracy(accuracy).choose(sample)
        return
    assert TargetAccuracy(accuracy).choose(sample).threshold == min(reaching)


@given(rows, st.sampled_from([0.1, 1.0, 3.0]), st.booleans())
def test_no_threshold_costs_less(drawn, cloud_cost, large_known):
    sample = _sample(drawn)
    if not large_known:
        sample = Sample(sample.confidence, sample.right)

    def cost(threshold):
        edge = sample.confidence >= threshold
        large = np.ones(len(sample), bool) if sample.large_right is None else sample.large_right
        wrong = ~np.where(edge, sample.right, large)
        return (cloud_cost * (~edge).sum() + 2.0 * wrong.sum()) / len(sample)

    choice = LeastCost(cloud_cost, 2.0).choose(sample)
    tried = [cost(t) for t in [np.inf, *np.unique(sample.confidence)]]
    assert cost(choice.threshold) == pytest.approx(min(tried))
    assert choice.evidence["cost"] == pytest.approx(min(tried))
    assert choice.evidence["cost_all_cloud"] == pytest.approx(tried[0])
    assert choice.evidence["cost_all_edge"] == pytest.approx(tried[1])


def _binomial_tail(k, n, p):
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def test_the_test_of_a_risk_is_the_exact_lower_tail():
    confidence = np.array([0.9, 0.9, 0.8, 0.8, 0.7, np.nan], np.float32)
    right = np.array([True, True, True, False, False, True])
    found = MaxRisk(0.3, 0.05).test(
        Sample(confidence, right), np.array([0.9, 0.75, 0.0], np.float32)
    )
    expected = [_binomial_tail(0, 2, 0.3), _binomial_tail(1, 4, 0.3), _binomial_tail(2, 5, 0.3)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_test_of_a_harm_is_the_difference_of_two_exact_limits():
    small = np.array([False] * 3 + [True] * 2 + [True] * 15)
    large = np.array([True] * 3 + [False] * 2 + [True] * 15)
    sample = Sample(np.full(20, 0.5, np.float32), small, large)
    (bound,) = MaxHarm(0.1, 0.1).test(sample, np.array([0.5], np.float32))
    (none,) = MaxHarm(0.1, 0.1).test(sample, np.array([0.6], np.float32))
    assert none == pytest.approx(1 - 0.05 ** (1 / 20))
    # Clopper-Pearson limits are where the tails are delta / 2.
    lost = _solve(lambda p: _binomial_tail(3, 20, p) - 0.05)
    won = _solve(lambda p: 0.05 - (1 - _binomial_tail(1, 20, p)))
    assert bound == pytest.approx(lost - won, abs=1e-9)


def _solve(falling):
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return low


@pytest.mark.parametrize("accuracy", [0.8, 0.6])
def test_the_risk_is_over_its_bound_no_more_often_than_promised(accuracy):
    draws = np.random.default_rng(2)
    population = _separated(400_000, draws, accuracy=accuracy)
    order = np.argsort(-population.confidence)
    confidence = population.confidence[order]
    risks = np.cumsum(~population.right[order]) / np.arange(1, len(order) + 1)
    over, kept, repeats = 0, [], 300
    for _ in range(repeats):
        sample = population.take(draws.integers(len(order), size=2000))
        try:
            threshold = MaxRisk(0.1, 0.2).choose(sample).threshold
        except CalibrationError:
            continue
        answered = int(np.searchsorted(-confidence, -threshold, side="right"))
        over += risks[answered - 1] > 0.1
        kept.append(answered / len(order))
    # 20 % of 300 is 60; the bound is four standard deviations above.
    assert over <= 60 + 4 * math.sqrt(300 * 0.2 * 0.8)
    # It is no empty promise: most of what an oracle answers is answered.
    assert np.mean(kept) > 0.85 * (np.flatnonzero(risks <= 0.1)[-1] + 1) / len(order)


def test_the_harm_is_over_its_bound_no_more_often_than_promised():
    draws = np.random.default_rng(3)
    population = _separated(400_000, draws)
    large = population.large_right
    order = np.argsort(-population.confidence)
    loss = (large.astype(int) - population.right.astype(int))[order]
    harms = np.cumsum(loss) / len(order)
    over, kept = 0, []
    for _ in range(300):
        sample = population.take(draws.integers(len(order), size=2000))
        threshold = MaxHarm(0.03, 0.2).choose(sample).threshold
        answered = int(np.searchsorted(-population.confidence[order], -threshold, side="right"))
        over += harms[answered - 1] > 0.03
        kept.append(answered / len(order))
    assert over <= 60 + 4 * math.sqrt(300 * 0.2 * 0.8)
    assert np.mean(kept) > 0.75 * (np.flatnonzero(harms <= 0.03)[-1] + 1) / len(order)


def test_coarse_confidences_are_decided_as_a_whole():
    draws = np.random.default_rng(4)
    sample = _separated(3000, draws)
    coarse = Sample(np.round(sample.confidence * 16) / 16, sample.right)
    threshold, record = calibrate(MaxRisk(0.1, 0.05), coarse, data="d", split="s")
    assert threshold in coarse.confidence
    assert record["achieved"] == (coarse.confidence < threshold).mean()


def test_nan_is_never_answered():
    draws = np.random.default_rng(5)
    sample = _separated(2000, draws)
    sample.confidence[:100] = np.nan
    sample.right[:100] = False
    _, record = calibrate(MaxRisk(0.1, 0.05), sample, data="d", split="s")
    assert record["achieved"] >= 0.05
    assert record["answered"] + 100 <= 2000


def test_too_few_data_are_refused_with_a_number_that_does():
    draws = np.random.default_rng(6)
    with pytest.raises(CalibrationError, match=r"30 inputs do not support .* use about \d+,") as e:
        MaxRisk(0.05, 0.05).choose(Sample(draws.random(30).astype(np.float32), np.ones(30, bool)))
    enough = 2 * int(str(e.value).split("use about ")[1].split(",")[0])
    confidence = draws.random(enough).astype(np.float32)
    MaxRisk(0.05, 0.05).choose(Sample(confidence, np.ones(enough, bool)))


def test_a_guarantee_that_no_number_of_inputs_supports_is_refused():
    draws = np.random.default_rng(7)
    sample = Sample(draws.random(500).astype(np.float32), draws.random(500) < 0.5)
    with pytest.raises(CalibrationError, match="no number of inputs"):
        MaxRisk(0.01, 0.05).choose(sample)


def test_the_same_data_give_the_same_threshold():
    sample = _separated(1000, np.random.default_rng(8))
    first, second = (MaxRisk(0.1, 0.05).choose(sample) for _ in range(2))
    assert first == second
