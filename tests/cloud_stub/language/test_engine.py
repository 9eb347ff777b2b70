"""The thread that generates for all callers, on a real tiny model."""

import itertools
import threading

import pytest
from tools.language_models import PROMPTS, by_hand, tiny

from cloud_stub.language.engine import Engine

pytestmark = pytest.mark.slow

EVERYBODY = lambda _row: True  # noqa: E731


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


@pytest.fixture
def engine(lm):
    running = Engine(lm)
    yield running
    running.close()


def tokens(lm, prompts):
    return lm.tokenizer(prompts)["input_ids"]


def heard(steps, rows):
    """Return the tokens of each row."""
    said = [[] for _ in range(rows)]
    for step in itertools.chain.from_iterable(steps):
        for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
            said[row].append(token)
    return said


def by_itself(lm, prompt, room):
    return by_hand(lm, prompt, room)[0].tolist()


@pytest.mark.parametrize("is_eager", [False, True])
def test_callers_of_many_threads_get_the_tokens_of_their_own_prompts(lm, engine, is_eager):
    rooms = [30, 2, 11, 1, 25]
    wanted = [by_itself(lm, prompt, room) for prompt, room in zip(PROMPTS, rooms, strict=True)]
    found = {}

    def ask(n):
        rows = [(n + i) % 5 for i in range(1 + n % 3)]
        prompts = tokens(lm, [PROMPTS[row] for row in rows])
        steps = engine.steps(prompts, [rooms[row] for row in rows], EVERYBODY, is_eager=is_eager)
        found[n] = heard(steps, len(rows)), rows

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    for said, rows in found.values():
        assert said == [wanted[row] for row in rows]


def test_a_prompt_that_the_model_fails_on_fails_alone(lm, engine):
    """It is read apart from those that run."""
    running = engine.steps(tokens(lm, PROMPTS[:1]), [30], EVERYBODY, is_eager=True)
    first = next(running)
    with pytest.raises(IndexError):
        list(engine.steps([[1, 1 << 20]], [5], EVERYBODY, is_eager=False))
    said = heard([first, *running], 1)
    assert said == [by_itself(lm, PROMPTS[0], 30)]
    after = engine.steps(tokens(lm, PROMPTS[1:2]), [4], EVERYBODY, is_eager=False)
    assert heard(after, 1) == [by_itself(lm, PROMPTS[1], 4)]


def test_a_step_that_fails_is_told_to_all_whose_rows_it_had_and_the_next_goes_on(
    lm, engine, monkeypatch
):
    running = engine.steps(tokens(lm, PROMPTS[:2]), [30, 30], EVERYBODY, is_eager=True)
    next(running)
    with monkeypatch.context() as broken:
        broken.setattr(lm.model, "forward", None)  # of no model: what calls it raises
        with pytest.raises(TypeError):
            list(running)
    after = engine.steps(tokens(lm, PROMPTS[1:2]), [4], EVERYBODY, is_eager=False)
    assert heard(after, 1) == [by_itself(lm, PROMPTS[1], 4)]


def test_rows_that_nobody_wants_leave_and_the_others_are_whole(lm, engine):
    asked = itertools.count()
    steps = engine.steps(
        tokens(lm, PROMPTS[:3]), [30] * 3, lambda row: row != 1 or next(asked) < 8, is_eager=False
    )
    said = heard(steps, 3)
    assert len(said[1]) < 30
    assert [said[0], said[2]] == [by_itself(lm, PROMPTS[row], 30) for row in (0, 2)]


def test_who_stops_listening_frees_the_engine(lm, engine):
    steps = engine.steps(tokens(lm, PROMPTS[:1]), [60], EVERYBODY, is_eager=True)
    next(steps)
    steps.close()
    after = engine.steps(tokens(lm, PROMPTS[1:2]), [4], EVERYBODY, is_eager=False)
    assert heard(after, 1) == [by_itself(lm, PROMPTS[1], 4)]


def test_more_rows_than_memory_is_for_take_turns(lm, engine, monkeypatch):
    from cloud_stub.language import engine as module

    monkeypatch.setattr(module, "rows_that_fit", lambda _vocabulary, _width: 2)
    steps = engine.steps(tokens(lm, PROMPTS), [9] * 5, EVERYBODY, is_eager=True)
    told = list(steps)
    assert max(len(step.rows) for step in itertools.chain.from_iterable(told)) <= 2
    assert heard(told, 5) == [by_itself(lm, prompt, 9) for prompt in PROMPTS]
