"""The figures of `benchmarks tasks` tell a sound scorer from a broken one."""

import dataclasses

import pytest

from benchmarks.tasks import shuffled_score, task_figures
from train.data.tasks import Example, Task
from train.data.tasks.parsers import LetterParser


@pytest.fixture
def task():
    """Return 100 questions: A is right for 60 of them, B for 40."""
    golds = "A" * 60 + "B" * 40
    test = tuple(Example(str(i), f"{i}?", f" {gold}", gold) for i, gold in enumerate(golds))
    return Task("arc-easy", (), (), test, LetterParser(("A", "B")), 9, ("A", "B"))


def test_chance_follows_from_how_often_each_answer_is_right(task):
    chance = shuffled_score(task, seed=0)
    assert chance.expected == pytest.approx(52)  # 100 (0.6^2 + 0.4^2)
    assert chance.deviation == pytest.approx(4.99600)  # sqrt(100 * 0.52 * 0.48)
    # Of the 60 dealt an A some k are right; so are 40 - (60 - k) of those dealt a B.
    assert (chance.right - 40) % 2 == 0
    assert chance.deviations == pytest.approx(abs(chance.right - 52) / 4.996, abs=1e-4)


def test_a_task_that_is_not_as_published_misses_its_figures(task):
    count, unread, right, shuffled = task_figures(task, seed=0)
    assert (count.value, count.is_met) == (2_251 + 2_276, False)
    assert [figure.is_met for figure in (unread, right, shuffled)] == [True, True, True]


def test_a_scorer_that_takes_any_answer_is_found_by_the_shuffle(task):
    class Lenient(Task):
        def is_right(self, text, example):
            return True

    fields = {item.name: getattr(task, item.name) for item in dataclasses.fields(task)}
    *_, right, shuffled = task_figures(Lenient(**fields), seed=0)
    assert right.is_met is True
    assert (shuffled.is_met, round(shuffled.value, 2)) == (False, 9.61)  # (100 - 52) / 4.996


def test_a_scorer_that_reads_no_answer_is_found_by_the_right_ones(task):
    deaf = dataclasses.replace(task, parse=lambda text: None)
    *_, right, shuffled = task_figures(deaf, seed=0)
    assert (right.value, right.is_met) == (0, False)
    assert shuffled.is_met is False
