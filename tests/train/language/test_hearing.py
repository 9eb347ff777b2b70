"""Hearing a checkpoint: it is asked once, and again only for other questions."""

from dataclasses import replace

import numpy as np
from tools.colours import colours

from train.language.answers import answer_split
from train.language.hearing import hear, large_right
from train.language.rivals import AnswerN


def test_a_checkpoint_is_asked_as_the_rival_wants(tiny, tmp_path):
    task, asking = colours(6), AnswerN().asking
    large = large_right(tiny, task, tmp_path / "large")
    heard = hear(tiny, task, asking, large, tmp_path / "answer-n")
    wanted = answer_split(
        tiny, task, task.test, instruction=asking.instruction, watch_text=asking.watch
    )
    for split in ("validation", "test"):
        assert heard.answers[split].texts == wanted.texts
        np.testing.assert_array_equal(heard.answers[split].watched, wanted.watched)
        assert large[split].shape == (6,)
    assert (heard.vocabulary, heard.taken) == (tiny.vocabulary, task.answers)


def test_what_was_said_is_read_again_and_other_questions_are_asked(tiny, tmp_path):
    task, asking = colours(6), AnswerN().asking
    first = hear(tiny, task, asking, {}, tmp_path)
    again = hear(tiny, task, asking, {}, tmp_path)
    assert again.answers["test"].seconds == first.answers["test"].seconds
    fewer = hear(tiny, replace(task, test=task.test[:2]), asking, {}, tmp_path)
    assert fewer.answers["test"].ids == ("q0", "q1")
    assert fewer.answers["validation"].seconds == first.answers["validation"].seconds
