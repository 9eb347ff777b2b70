"""The logistic regression: its optimum by independent checks, and folds that keep their word."""

import numpy as np
import pytest
import torch

from edge_runtime import metrics
from train.comparison import post_hoc
from train.comparison.post_hoc import FOLDS, STRENGTHS

pytestmark = pytest.mark.once


@pytest.fixture
def separable(generator):
    """Inputs of different scales, and targets drawn from a known logistic model of them."""
    inputs = generator.normal(size=(20_000, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, -2.0]
    logit = 1.5 * inputs[:, 0] - 0.2 * inputs[:, 1] + 4.0 * inputs[:, 2] + 8.0
    return inputs, generator.random(len(logit)) < 1 / (1 + np.exp(-logit))


def test_a_known_model_is_recovered(separable):
    model = post_hoc.fit(*separable, 1e-6)
    assert model.weight == pytest.approx([1.5, -0.2, 4.0], rel=0.1)
    assert model.bias == pytest.approx(8.0, rel=0.1)


@pytest.mark.parametrize("l2", [1.0, 1e-3])
def test_the_gradient_of_the_objective_is_zero_at_the_solution(separable, l2):
    inputs, target = (column[:400] for column in separable)
    model = post_hoc.fit(inputs, target, l2)
    # In torch, and over standardised inputs, as the module's first lines write it.
    z = torch.from_numpy((inputs - inputs.mean(0)) / inputs.std(0))
    w = torch.from_numpy(model.weight * inputs.std(0)).requires_grad_()
    b = torch.tensor(model.bias + model.weight @ inputs.mean(0), requires_grad=True)
    y = torch.from_numpy(target).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z @ w + b, y)
    (loss + l2 / 2 * (w**2).sum()).backward()
    assert torch.cat([w.grad, b.grad[None]]).abs().max() < 1e-6


def test_the_strongest_penalty_leaves_the_base_rate(generator):
    target = np.arange(200) < 50
    model = post_hoc.fit(generator.normal(size=(200, 2)), target, 1e9)
    # log(0.25 / 0.75)
    assert model.logit(np.zeros((1, 2)))[0] == pytest.approx(-np.log(3))


def test_a_column_that_does_not_vary_gets_no_weight(generator):
    inputs = np.concatenate([generator.normal(size=(60, 1)), np.full((60, 2), [0.0, 0.1])], axis=1)
    model = post_hoc.fit(inputs, inputs[:, 0] > 0.5, 0.01)
    assert model.weight[0] > 0
    assert model.weight[1:].tolist() == [0.0, 0.0]


def test_noise_is_shrunk_and_a_signal_is_not(generator, separable):
    noise = post_hoc.fit_by_cross_validation(
        generator.normal(size=(100, 40)), generator.random(100) < 0.3, seed=0
    )
    assert noise.l2 == STRENGTHS[0]
    assert post_hoc.fit_by_cross_validation(*(c[:2000] for c in separable), seed=0).l2 < 0.1


def test_every_fold_has_its_part_of_both_values():
    target = np.arange(83) % 7 == 0  # 12 of 83
    fold = post_hoc.stratified_folds(target, seed=1)
    assert np.bincount(fold[target], minlength=FOLDS).tolist() == [3, 3, 2, 2, 2]
    assert np.ptp(np.bincount(fold[~target])) <= 1
    assert (fold != post_hoc.stratified_folds(target, seed=2)).any()


def test_out_of_fold_logits_know_nothing_of_random_targets(generator):
    inputs, target = generator.normal(size=(600, 100)), generator.random(600) < 0.5
    seen = post_hoc.fit(inputs, target, STRENGTHS[-1]).logit(inputs)
    assert metrics.auroc(seen, target) > 0.7
    assert metrics.auroc(post_hoc.out_of_fold_logits(inputs, target, 0), target) < 0.56


def test_an_out_of_fold_logit_does_not_depend_on_its_own_target(generator):
    inputs, target = generator.normal(size=(80, 3)), np.arange(80) % 2 == 0
    before = post_hoc.out_of_fold_logits(inputs, target, 0)
    fold = post_hoc.stratified_folds(target, 0)
    # Two rows of one fold change places in all but their inputs: no other row of it may notice.
    a, b = (np.flatnonzero((fold == 0) & (target == value))[0] for value in (True, False))
    swapped = inputs.copy()
    swapped[[a, b]] = swapped[[b, a]]
    after = post_hoc.out_of_fold_logits(swapped, target, 0)
    alike = (fold == 0) & ~np.isin(np.arange(80), [a, b])
    np.testing.assert_allclose(after[alike], before[alike], rtol=1e-9)
    np.testing.assert_allclose(after[[a, b]], before[[b, a]], rtol=1e-9)
    assert (after[fold != 0] != before[fold != 0]).all()
