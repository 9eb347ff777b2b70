"""Comparisons: the weighted figures are the metrics' own, and paired intervals find real gains."""

import numpy as np
import pytest

from edge_runtime import metrics
from train.comparison import DRAWN, Candidate, Draws, compare, figures, interval


def candidate(draws, n=400, seeds=2, *, coarse=False):
    uncertainty = draws.random((seeds, n)).astype(np.float32)
    if coarse:
        uncertainty = np.round(uncertainty, 1)
    right = draws.random((seeds, n)) > uncertainty * 0.8
    return Candidate(uncertainty, right, 1.0, is_probability=True)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_draw_has_the_figures_of_the_repeated_inputs(coarse, generator):
    one = candidate(generator, seeds=1, coarse=coarse)
    large = (generator.random(400) < 0.9).astype(float)
    draws = Draws.make(400, 1, draws=3)
    drawn = draws.of(one, large)
    for i in range(3):
        rows = np.repeat(np.arange(400), draws.counts[i].astype(int))
        repeated = Candidate(one.uncertainty[:, rows], one.right[:, rows], 1.0, True)
        wanted = figures(repeated, large[rows])
        for name in DRAWN:
            assert drawn[name][i] == pytest.approx(wanted[name], abs=1e-12), name


def test_the_figures_are_means_over_seeds(generator):
    two, large = candidate(generator), np.ones(400)
    by_hand = np.mean(
        [metrics.auroc(-u, r) for u, r in zip(two.uncertainty, two.right, strict=True)]
    )
    assert figures(two, large)["AUROC"] == pytest.approx(by_hand)


def test_a_gain_in_order_is_found_and_none_is_not(generator):
    n, seeds = 2000, 3
    right = generator.random((seeds, n)) < 0.7
    noise = generator.random((2, seeds, n))
    made = {
        name: Candidate((noise[i] + pull * right * -0.5).astype(np.float32), right, 1.0, False)
        for i, (name, pull) in enumerate((("control", 1.0), ("same", 1.0)))
    }
    made["better"] = Candidate((noise[0] - right).astype(np.float32), right, 1.0, False)
    result = compare(made, np.ones(n), "control")
    better = result["better"]["minus_control"]["AUROC"]
    same = result["same"]["minus_control"]["AUROC"]
    assert 0 < better["low"] < better["value"] < better["high"]
    assert same["low"] < 0 < same["high"]
    assert result["control"]["minus_control"]["AUROC"] == {"value": 0, "low": 0, "high": 0}


def test_the_interval_covers_what_it_should():
    low, high = interval(np.arange(1001.0))
    assert (low, high) == pytest.approx((25.0, 975.0))
    assert np.isnan(interval(np.full(5, np.nan))[0])
