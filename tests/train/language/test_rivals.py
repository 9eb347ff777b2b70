"""Rivals: the prompts, the uncertainties derived from answers, and no look at the test split."""

from dataclasses import replace

import numpy as np
import pytest
from tools.colours import answers

from edge_runtime import contract, metrics
from train.comparison.post_hoc import HeadInputs, fit_head
from train.errors import DataError
from train.language.rivals import (
    ANSWER_N,
    REDUCE_CONFIDENCE,
    AnswerN,
    Plain,
    Query,
    ReduceConfidence,
    Responses,
    TokenQuantiles,
    all_rivals,
    candidate,
    is_abstention,
    uncertainty,
)
from train.models.deferral_head import sigmoid

pytestmark = [pytest.mark.once, pytest.mark.slow]
VOCABULARY = 50


def guessed_tokens(generator, n=400):
    """Return answers that are wrong if one token was guessed; their means reveal little.

    M_S is right if the least likely token has more than p = 0.3. The other tokens move the mean up
    or down at random.
    """
    lowest = np.log(generator.uniform(0.05, 0.55, n))
    others = -generator.exponential(1.0, (n, 1)) * generator.uniform(0.1, 0.5, (n, 9))
    others = np.maximum(others, lowest[:, None])
    return answers(np.column_stack([lowest, others]), lowest > np.log(0.3))


def respond(generator, large=None, n=400):
    split = {s: guessed_tokens(generator, n) for s in ("validation", "test")}
    large = {s: np.ones(n, bool) for s in split} if large is None else large
    return Responses(split, large, VOCABULARY)


def test_the_prompts_are_the_papers_word_for_word():
    assert REDUCE_CONFIDENCE == "Respond with low confidence if you are uncertain."
    assert ANSWER_N == "Respond with 'N' if you are uncertain."
    assert ReduceConfidence().query == Query("untuned", REDUCE_CONFIDENCE)
    assert AnswerN().query == Query("untuned", ANSWER_N, "N")


def test_all_rivals_are_listed_and_share_queries():
    rivals = all_rivals(["untuned", "control", "gatekeeper-0.5"])
    assert [r.name for r in rivals] == [
        *np.repeat(["untuned", "control", "gatekeeper-0.5"], 2),
        "reduce_confidence",
        "answer_n",
    ]
    meaningless = [r.name for r in rivals if not r.is_meaningful_from_scratch]
    assert meaningless == ["reduce_confidence", "answer_n"]
    # Two rivals that read the same answers share a query.
    assert len({r.query for r in rivals}) == 5


def test_a_checkpoint_has_an_uncertainty_for_every_confidence(generator):
    one = respond(generator)
    doubts = Plain("control").uncertainties(one)
    assert tuple(doubts) == metrics.SEQUENCE_KINDS
    for kind, doubt in doubts.items():
        for split, found in one.answers.items():
            measured = candidate(kind, doubt[split][None], found.right[None])
            unit = np.exp(-doubt[split]) if measured.is_logarithm else 1.0 - doubt[split]
            expected = metrics.unit_sequence_confidence(kind, found.confidence[kind], VOCABULARY)
            np.testing.assert_allclose(unit, expected, rtol=1e-12, err_msg=kind)
            assert measured.is_probability != measured.is_logarithm


def test_an_uncertainty_keeps_its_digits_near_certainty_and_far_from_it():
    near = np.array([-1e-12, -2e-12])
    far = np.array([-60.0, -60.001])
    for kind in (contract.MEAN_LOGPROB, contract.SUM_LOGPROB, contract.NEG_ENTROPY):
        assert np.unique(uncertainty(kind, near, 2).astype(np.float32)).size == 2
    assert np.unique(uncertainty(contract.SUM_LOGPROB, far, 2).astype(np.float32)).size == 2
    kind = contract.MIN_PROB
    assert np.unique(uncertainty(kind, np.exp(near), 2).astype(np.float32)).size == 2
    assert np.unique(uncertainty(kind, np.exp(far), 2).astype(np.float32)).size == 2


def test_a_vocabulary_of_one_leaves_nothing_to_doubt():
    found = uncertainty(contract.NEG_ENTROPY, np.array([0.0, np.nan]), 1)
    np.testing.assert_array_equal(found, [0.0, np.nan])


def test_the_rule_detects_a_guessed_token(generator):
    one = respond(generator)
    doubt = TokenQuantiles("untuned").uncertainties(one)["token_quantiles"]
    for split, found in one.answers.items():
        u = doubt[split]
        assert ((u > 0) & (u < 1)).all()
        learned = metrics.auroc(-u, found.right)
        assert learned > 0.95, split
        assert metrics.auroc(found.confidence["mean_logprob"], found.right) < learned - 0.1


def test_the_rule_learns_where_the_large_model_helps(generator):
    one = respond(generator)
    # M_L is right exactly where the likeliest token is not too likely, whatever M_S answers.
    large = {s: found.quantiles[:, -1] < -0.02 for s, found in one.answers.items()}
    u = TokenQuantiles("untuned").uncertainties(replace(one, large=large))["token_quantiles"]
    gained = large["test"] & ~one.answers["test"].right
    assert metrics.auroc(u["test"], gained) > 0.9
    # It is the logistic regression on validation: the same as by hand.
    validation = one.answers["validation"]
    seen = HeadInputs(validation.quantiles, validation.right)
    rule = fit_head(seen, large["validation"] & ~validation.right, 0)
    np.testing.assert_allclose(u["test"], sigmoid(rule.logit(one.answers["test"].quantiles)))


def test_the_rule_does_not_look_at_the_test_split_or_at_its_own_example(generator):
    one = respond(generator)
    before = TokenQuantiles("untuned").uncertainties(one)["token_quantiles"]
    test = replace(one.answers["test"], right=~one.answers["test"].right)
    other = replace(
        one,
        answers={**one.answers, "test": test},
        large={**one.large, "test": ~one.large["test"]},
    )
    after = TokenQuantiles("untuned").uncertainties(other)["token_quantiles"]
    for split in before:
        np.testing.assert_array_equal(before[split], after[split])
    # In-fold values would be alike for alike answers; those of other folds come of other fits.
    validation = one.answers["validation"]
    alike = replace(validation, quantiles=np.tile(validation.quantiles[:40], (10, 1)))
    same = replace(one, answers={**one.answers, "validation": alike})
    u = TokenQuantiles("untuned").uncertainties(same)["token_quantiles"]["validation"]
    assert len(np.unique(u[::40])) > 1


def test_the_rule_defers_an_answer_without_tokens(generator):
    one = respond(generator)
    holes = {}
    for split, found in one.answers.items():
        quantiles = found.quantiles.copy()
        quantiles[:3] = np.nan
        holes[split] = replace(found, quantiles=quantiles)
    u = TokenQuantiles("untuned").uncertainties(replace(one, answers=holes))["token_quantiles"]
    for values in u.values():
        assert np.isnan(values[:3]).all()
        assert np.isfinite(values[3:]).all()


def test_a_rule_with_nothing_to_learn_is_refused(generator):
    one = respond(generator)
    never = replace(one, large={s: np.zeros(400, bool) for s in one.large})
    with pytest.raises(DataError, match="M_L has right and M_S wrong"):
        TokenQuantiles("untuned").uncertainties(never)


@pytest.mark.parametrize("text", ["N", " N", "N.", "'N'", ' "N"\n'])
def test_the_answer_n_is_an_abstention(text):
    assert is_abstention(text)
    assert not is_abstention(text, ("M", "N"))  # a task that has it as an answer means that


@pytest.mark.parametrize("text", ["", "n", "No", "red", "N N"])
def test_another_answer_is_none(text):
    assert not is_abstention(text)


def test_the_answer_n_defers_and_the_others_go_by_its_probability():
    watched = np.log([0.9, 0.2, 0.6, np.nan])
    found = answers(
        np.full((4, 1), -0.1), [0, 1, 0, 0], texts=[" N", " red", " green", ""], watched=watched
    )
    one = Responses({"validation": found, "test": found}, {}, VOCABULARY)
    doubt = AnswerN().uncertainties(one)["not_n"]
    for u in doubt.values():
        np.testing.assert_allclose(u, [np.nan, 0.2, 0.6, np.nan])
    taken = AnswerN().uncertainties(replace(one, task_answers=("N",)))["not_n"]
    np.testing.assert_allclose(taken["test"], [0.9, 0.2, 0.6, np.nan])
