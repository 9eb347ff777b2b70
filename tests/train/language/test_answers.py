"""Answers of a language model to a split: parsing, files, refused prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tools.colours import answers, colours

from edge_runtime import metrics
from train.errors import CheckpointError, DataError
from train.language.answers import (
    LEVELS,
    answer_split,
    first_token,
    load_answers,
    save_answers,
    token_quantiles,
    with_instruction,
)


def test_quantiles_by_hand():
    logprob = np.array([[-1.0, -4.0, -2.0, 99.0], [-0.5, 99.0, 99.0, 99.0]])
    found = token_quantiles(logprob, logprob < 0)
    assert LEVELS == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    # Sorted -4, -2, -1: a tenth is a fifth of the way between two of them.
    by_hand = [-4.0, -3.6, -3.2, -2.8, -2.4, -2.0, -1.8, -1.6, -1.4, -1.2, -1.0]
    np.testing.assert_allclose(found, [by_hand, [-0.5] * 11])


def test_an_answer_without_tokens_or_with_nan_has_no_quantiles():
    found = token_quantiles(np.array([[-1.0], [np.nan]]), np.array([[False], [True]]))
    assert np.isnan(found).all()
    assert token_quantiles(np.zeros((2, 0)), np.zeros((2, 0), bool)).shape == (2, 11)


def test_the_task_decides_which_answers_are_right(tiny):
    task = colours()
    texts = answer_split(tiny, replace(task, parse=str.strip), task.test).texts
    # The model's own answer becomes the right answer of every other question.
    examples = [
        replace(e, gold=text.strip() if i % 2 else f"{text} not")
        for i, (e, text) in enumerate(zip(task.test, texts, strict=True))
    ]
    found = answer_split(tiny, replace(task, parse=str.strip), examples)
    assert found.right.tolist() == [False, True] * 6
    assert not found.unparsed.any()
    assert found.ids == tuple(e.id for e in examples)
    assert answer_split(tiny, task, examples).unparsed.all()  # no answer is a colour
    assert 0 < found.tokens_per_s == found.tokens.sum() / found.seconds


def test_every_confidence_is_computed_and_agrees_with_the_quantiles(tiny):
    found = answer_split(tiny, colours(), colours().test)
    assert tuple(found.confidence) == metrics.SEQUENCE_KINDS
    assert all(g.shape == (12,) and np.isfinite(g).all() for g in found.confidence.values())
    np.testing.assert_allclose(np.exp(found.quantiles[:, 0]), found.confidence["min_prob"])


def test_refused_prompts_are_counted_by_reason_and_have_no_confidence(tiny):
    task = colours(4)
    first, second, third, fourth = task.test
    long = "a long story, " * 40
    examples = (replace(first, prompt=" "), second, replace(third, prompt=long), fourth)
    found = answer_split(tiny, task, examples, instruction="Be brief.")
    assert sorted(found.refused.values()) == [1, 1]
    assert (
        found.refused["the prompt is empty"] == 1
    )  # an instruction alone does not make a question
    for g in found.confidence.values():
        assert np.isnan(g).tolist() == [True, False, True, False]
    assert found.tokens[[0, 2]].tolist() == [0, 0]
    assert not found.right[[0, 2]].any()


def test_an_instruction_stands_before_the_whole_prompt(tiny):
    assert with_instruction("Question?\nAnswer:", "Be brief.") == "Be brief.\n\nQuestion?\nAnswer:"
    assert with_instruction("Question?", None) == "Question?"
    assert with_instruction("", "Be brief.") == ""
    task = colours(3)
    instructed = answer_split(tiny, task, task.test, instruction="Be brief.")
    by_hand = [replace(e, prompt=f"Be brief.\n\n{e.prompt}") for e in task.test]
    np.testing.assert_array_equal(
        instructed.confidence["neg_entropy"],
        answer_split(tiny, task, by_hand).confidence["neg_entropy"],
    )


def test_the_watched_answer_has_the_models_own_log_probability(tiny):
    task = colours(3)
    found = answer_split(tiny, task, task.test, watch_text="N")
    token = tiny.tokenizer.convert_tokens_to_ids("ĠN")
    for example, logprob in zip(task.test, found.watched, strict=True):
        ids = torch.tensor([tiny.tokenizer(example.prompt)["input_ids"]])
        with torch.no_grad():
            log_p = tiny.model(input_ids=ids).logits[0, -1].double().log_softmax(-1)
        assert logprob == pytest.approx(float(log_p[token]), rel=1e-5)
    assert np.isnan(answer_split(tiny, task, task.test).watched).all()


def test_an_answer_begins_with_the_token_that_identifies_it(tiny):
    tokens = tiny.tokenizer.convert_tokens_to_ids(["ĠN", "N"])
    assert [first_token(tiny.tokenizer, "N", spaced=s) for s in (True, False)] == tokens
    # " X" is two tokens, a space and X; the space identifies nothing.
    assert first_token(tiny.tokenizer, "X") == tiny.tokenizer.convert_tokens_to_ids("X")
    with pytest.raises(CheckpointError, match="one token for 'XYZ'"):
        first_token(tiny.tokenizer, "XYZ")


def test_answers_survive_saving_and_loading(tmp_path):
    found = replace(
        answers([[-0.5, -1e-12], [-2.0, -3.0]], [True, False], texts=[" red\0", "?\ud800"]),
        refused={"the prompt is empty": 3},
    )
    save_answers(tmp_path / "a.npz", found)
    read = load_answers(tmp_path / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    for name in ("ids", "texts", "parsed", "seconds", "refused"):
        assert getattr(read, name) == getattr(found, name), name
    for name in ("right", "quantiles", "watched", "tokens", "unparsed"):
        np.testing.assert_array_equal(getattr(read, name), getattr(found, name), err_msg=name)
    for kind, g in found.confidence.items():
        np.testing.assert_array_equal(read.confidence[kind], g)


def test_a_damaged_file_is_refused_with_advice(tmp_path):
    path = tmp_path / "a.npz"
    save_answers(path, answers([[-0.5]], [True]))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="let the model answer again"):
        load_answers(path)
    with pytest.raises(DataError, match="expected answers"):
        load_answers(tmp_path / "none.npz")
