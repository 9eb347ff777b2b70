"""Comparisons: the weighted figures are the metrics' own, and paired intervals find real gains."""

import numpy as np
import pytest

from edge_runtime import metrics
from train.comparison.figures import DRAWN, Candidate, Draws, compare, figures, interval

pytestmark = pytest.mark.once


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


def test_nan_is_the_most_uncertain_in_figures_and_in_draws(generator):
    one = candidate(generator, seeds=1, coarse=True)
    large = (generator.random(400) < 0.9).astype(float)
    holes = one.uncertainty.copy()
    holes[0, :40] = np.nan
    last = np.where(np.isnan(holes), np.float32(7.0), holes)  # above all others, and tied
    unsure, named = (Candidate(u, one.right, 1.0, is_probability=False) for u in (holes, last))
    assert figures(unsure, large) == pytest.approx(figures(named, large), nan_ok=True)
    draws = Draws.make(400, 1, draws=3)
    found, wanted = draws.of(unsure, large), draws.of(named, large)
    for name in DRAWN:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_a_logarithm_has_the_figures_of_its_probability(generator):
    one, large = candidate(generator), np.ones(400)
    p = np.maximum(1.0 - one.uncertainty.astype(float), 1e-3)
    as_probability = Candidate((1.0 - p).astype(np.float32), one.right, 1.0, is_probability=True)
    as_logarithm = Candidate(-np.log(p).astype(np.float32), one.right, 1.0, False, True)
    found, wanted = figures(as_logarithm, large), figures(as_probability, large)
    assert not np.isnan(found["s_o"])
    assert found == pytest.approx(wanted, abs=1e-5)


def test_each_row_may_have_its_own_control(generator):
    made = {name: candidate(generator) for name in ("control", "control too", "ours")}
    own = {"control": "control", "control too": "control too", "ours": "control too"}
    result = compare(made, np.ones(400), own)
    for name, base in own.items():
        row = compare(made, np.ones(400), base)[name]
        for figure, found in result[name]["minus_control"].items():
            assert found == pytest.approx(row["minus_control"][figure], nan_ok=True)
    assert result["control too"]["minus_control"]["AUROC"]["value"] == 0


def test_without_a_large_model_there_are_the_figures_of_the_small_one(generator):
    one = candidate(generator)
    alone = figures(one, None)
    assert list(alone) == ["acc(M_S)", "s_o", "AUROC"]
    beside = figures(one, np.ones(400))
    assert alone == {name: beside[name] for name in alone}
