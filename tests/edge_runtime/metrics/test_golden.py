"""The metrics against golden values, independent implementations, and their own laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score

from edge_runtime import metrics
from edge_runtime.errors import InputError


def unquote(value):
    if isinstance(value, list):
        return [unquote(v) for v in value]
    return float(value) if isinstance(value, str) else value


def close(ours, wanted):
    np.testing.assert_allclose(ours, unquote(wanted), atol=1e-9, rtol=0)


def test_deferral_performance_is_golden(golden):
    for case in golden["metrics"]:
        given_, expected = case["input"], case["expected"]
        columns = [unquote(given_[key]) for key in ("conf", "q_small", "q_large")]
        performance = metrics.deferral_performance(*columns)
        assert performance.status == expected["status"], case["name"]
        close(performance.s_d, expected["s_d"])
        close(performance.s_d_star, expected["s_d_star"])
        close(performance.numerator, expected["num"])
        close(performance.denominator, expected["den"])
        close(performance.curve[0], expected["curve_r"])
        close(performance.curve[1], expected["curve_acc"])
        for ratio, joint in expected["joint_at"].items():
            close(metrics.joint_accuracy_at(*columns, float(ratio)), joint)


def test_separation_is_golden(golden):
    for case in golden["metrics"]:
        expected = case["expected"]
        g, small = unquote(case["input"]["conf"]), unquote(case["input"]["q_small"])
        close(metrics.pearson(g, small), expected["pearson"])
        if "auroc" in expected:
            close(metrics.auroc(g, small), expected["auroc"])
            close(metrics.distributional_overlap(g, small), expected["s_o_reflect"])


@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_confidences_are_golden(golden, kind):
    for case in golden[kind]:
        logits = np.array(unquote(case["input"]["logits"]))
        mask = None
        if kind == "tokens":
            mask = np.array(case["input"]["labels"]) != -100
            if case["input"]["mask"] is not None:
                mask &= np.array(case["input"]["mask"])
        else:
            close(metrics.max_softmax(logits), case["expected"]["g_cl"])
        close(metrics.neg_entropy(logits, mask), case["expected"]["g_nent"])


ROWS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=60
)


def columns_of(rows):
    g, small, large = np.array(rows, float).T
    return g / 16, small, large


@given(rows=ROWS)
def test_a_monotone_transform_changes_neither_s_d_nor_auroc(rows):
    g, small, large = columns_of(rows)
    before = metrics.deferral_performance(g, small, large)
    after = metrics.deferral_performance(np.exp(3 * g) - 5, small, large)
    np.testing.assert_allclose(after.s_d, before.s_d, atol=1e-9)
    np.testing.assert_allclose(
        metrics.auroc(np.exp(3 * g) - 5, small), metrics.auroc(g, small), atol=1e-12
    )


@given(rows=ROWS, seed=st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(rows, seed):
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    straight = metrics.deferral_performance(*columns_of(rows))
    mixed = metrics.deferral_performance(*columns_of([rows[i] for i in shuffled]))
    np.testing.assert_allclose(mixed.s_d_star, straight.s_d_star, atol=1e-9)
    np.testing.assert_allclose(mixed.curve, straight.curve, atol=1e-12)


@given(rows=ROWS)
def test_with_a_perfect_large_model_s_d_is_twice_auroc_minus_one(rows):
    g, small, _ = columns_of(rows)
    s_d = metrics.deferral_performance(g, small, 1.0).s_d
    np.testing.assert_allclose(s_d, 2 * metrics.auroc(g, small) - 1, atol=1e-9)


@given(rows=ROWS)
def test_the_curve_ends_at_the_models_and_s_d_star_is_bounded(rows):
    g, small, large = columns_of(rows)
    performance = metrics.deferral_performance(g, small, large)
    np.testing.assert_allclose(performance.curve[1][[0, -1]], [small.mean(), large.mean()])
    if not np.isnan(performance.s_d_star):
        assert -1 - 1e-9 <= performance.s_d_star <= 1 + 1e-9
    area = integrate.trapezoid(performance.curve[1], performance.curve[0])
    assert metrics.joint_accuracy_area(g, small, large) == pytest.approx(area, abs=1e-12)


@given(rows=ROWS)
def test_nan_is_the_least_confident(rows):
    g, small, large = columns_of(rows)
    with_nan, with_low = g.copy(), g.copy()
    with_nan[0], with_low[0] = np.nan, -1.0
    np.testing.assert_array_equal(
        metrics.deferral_performance(with_nan, small, large).curve,
        metrics.deferral_performance(with_low, small, large).curve,
    )


@settings(max_examples=30)
@given(rows=ROWS)
def test_auroc_is_sklearns(rows):
    g, small, _ = columns_of(rows)
    if 0 < small.sum() < small.size:
        assert metrics.auroc(g, small) == pytest.approx(roc_auc_score(small, g))
    else:
        assert np.isnan(metrics.auroc(g, small))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_overlap_is_that_of_reflected_scipy_densities(seed):
    draws = np.random.default_rng(seed)
    g, right = draws.beta(4, 1.5, 80), draws.integers(0, 2, 80)
    grid = np.linspace(0, 1, 4097)

    def density(values):
        kernel = stats.gaussian_kde(values)  # Scott's factor is its default
        total = kernel(grid) + kernel(-grid) + kernel(2 - grid)
        return total / integrate.trapezoid(total, grid)

    wanted = integrate.trapezoid(np.minimum(density(g[right == 1]), density(g[right == 0])), grid)
    assert metrics.distributional_overlap(g, right) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("right", [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0], [1, 1], [0, 0]])
def test_the_overlap_of_a_single_sample_is_undefined(right):
    g = [0.9, 0.8, 0.3, 0.2][: len(right)]
    assert np.isnan(metrics.distributional_overlap(g, right))


def test_joint_accuracy_at_a_threshold_by_hand():
    # 0.2 and NaN are deferred: large is right on one of them, small on one of the two kept.
    joint, ratio = metrics.joint_accuracy_at_threshold(
        [0.2, 0.5, 0.9, np.nan], [0, 1, 0, 1], [1, 0, 1, 0], 0.5
    )
    assert (joint, ratio) == (0.5, 0.5)


def test_the_bootstrap_interval_covers_a_mean():
    draws = np.random.default_rng(0)
    inside = 0
    for seed in range(100):
        interval = metrics.bootstrap_interval(
            lambda x: float(x.mean()), draws.normal(size=60), resamples=200, seed=seed
        )
        inside += interval.low <= 0 <= interval.high
    # Binomial(100, 0.95) is under 85 once in ten thousand; the bootstrap is a little narrow.
    assert inside >= 85


@pytest.mark.parametrize("wrong", [([], []), ([0.5], [1, 0]), ([0.5, 0.6], [0, 2])])
def test_arguments_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError):
        metrics.auroc(*wrong)
