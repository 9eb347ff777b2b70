"""The figures of all bootstrap draws at once equal the metrics of each draw."""

import numpy as np
import pytest

from edge_runtime import metrics
from edge_runtime.errors import InputError

RATIOS = (0.0, 0.1, 0.5, 1.0)
KINDS = {
    "plain": lambda g: g,
    "tied": lambda g: np.round(g, 1),
    "one-value": np.zeros_like,
    "nan": lambda g: np.where(g < 0.2, np.nan, g),
    "infinite": lambda g: np.where(g < 0.2, -np.inf, g),
}


def by_metric(g, small, large):
    """Return the metrics of one draw, in the order of `at_once`."""
    performance = metrics.deferral_performance(g, small, large)
    return [
        performance.p_s,
        performance.p_l,
        metrics.joint_accuracy_area(g, small, large),
        metrics.auroc(g, small),
        performance.s_d,
        performance.s_d_star,
        *(metrics.joint_accuracy_at(g, small, large, ratio) for ratio in RATIOS),
    ]


def at_once(g, small, large, counts):
    drawn = metrics.drawn_figures(g, small, large, counts, RATIOS)
    best = metrics.drawn_figures(small - large, small, large, counts)
    columns = (drawn.p_s, drawn.p_l, drawn.area, drawn.auroc, drawn.s_d, drawn.s_d_star(best))
    return np.column_stack([*columns, drawn.joint])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 7, 150])
def test_each_draw_has_the_figures_of_its_inputs(kind, n, generator):
    g = KINDS[kind](generator.random(n))
    small = (generator.random(n) < 0.6).astype(float)
    large = generator.random(n)  # graded answers of M_L count too
    counts = metrics.bootstrap_counts(n, resamples=20)
    drawn = at_once(g, small, large, counts)
    for row, count in zip(drawn, counts.astype(int), strict=True):
        wanted = by_metric(*(np.repeat(column, count) for column in (g, small, large)))
        np.testing.assert_allclose(row, wanted, atol=1e-12)


@pytest.mark.parametrize(("p_s", "p_l"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_what_is_undefined_is_nan(p_s, p_l, generator):
    g, small, large = generator.random(9), np.full(9, float(p_s)), np.full(9, float(p_l))
    row = at_once(g, small, large, np.ones((1, 9)))[0]
    np.testing.assert_allclose(row, by_metric(g, small, large), atol=1e-12)


def test_many_draws_of_many_inputs_are_those_of_each_alone(generator):
    n, draws = 3000, 50  # more than is worked on at once
    g, small = generator.random(n), (generator.random(n) < 0.5).astype(float)
    counts = metrics.bootstrap_counts(n, resamples=draws)
    together = at_once(g, small, np.ones(n), counts)
    alone = [at_once(g, small, np.ones(n), counts[i : i + 1])[0] for i in range(draws)]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_the_counts_are_the_draws_of_the_interval(generator):
    x = generator.normal(size=40)
    interval = metrics.bootstrap_interval(np.mean, x, resamples=100, seed=3)
    means = metrics.bootstrap_counts(40, resamples=100, seed=3) @ x / 40
    found = metrics.percentile_interval(means)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize(
    ("small", "counts", "ratios"),
    [
        ([1.0, 0.5], np.ones((3, 2)), ()),
        ([1.0, 0.0], np.ones((3, 3)), ()),
        ([1.0, 0.0], np.ones(2), ()),
        ([1.0, 0.0], np.ones((3, 2)), (1.5,)),
    ],
)
def test_what_does_not_fit_is_refused(small, counts, ratios):
    with pytest.raises(InputError):
        metrics.drawn_figures([0.1, 0.2], small, 1.0, counts, ratios)
