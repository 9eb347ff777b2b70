"""The engine's thread, on a real tiny model."""

import itertools
import threading

import pytest
from tools.language_models import PROMPTS, by_hand, tiny

from cloud_stub.language.engine import Engine

pytestmark = pytest.mark.slow

PATIENCE_S = 20.0
ALWAYS = lambda _row: True  # noqa: E731


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


def collected(steps, rows):
    """Return the tokens of each row."""
    sequences = [[] for _ in range(rows)]
    for step in itertools.chain.from_iterable(steps):
        for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
            sequences[row].append(token)
    return sequences


def alone(lm, prompt, limit):
    """Return the tokens that the model generates without the engine."""
    return by_hand(lm, prompt, limit)[0].tolist()


@pytest.mark.parametrize("is_eager", [False, True])
def test_callers_of_many_threads_get_the_tokens_of_their_own_prompts(lm, engine, is_eager):
    limits = [30, 2, 11, 1, 25]
    wanted = [alone(lm, prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    answers = {}

    def generate(n):
        rows = [(n + i) % 5 for i in range(1 + n % 3)]
        prompts = tokens(lm, [PROMPTS[row] for row in rows])
        steps = engine.steps(prompts, [limits[row] for row in rows], ALWAYS, is_eager=is_eager)
        answers[n] = collected(steps, len(rows)), rows

    threads = [threading.Thread(target=generate, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16
    for sequences, rows in answers.values():
        assert sequences == [wanted[row] for row in rows]


def test_a_prompt_that_the_model_fails_on_fails_alone(lm, engine):
    """It is read separately from the running ones."""
    running = engine.steps(tokens(lm, PROMPTS[:1]), [30], ALWAYS, is_eager=True)
    first = next(running)
    with pytest.raises(IndexError):
        list(engine.steps([[1, 1 << 20]], [5], ALWAYS, is_eager=False))
    assert collected([first, *running], 1) == [alone(lm, PROMPTS[0], 30)]
    after = engine.steps(tokens(lm, PROMPTS[1:2]), [4], ALWAYS, is_eager=False)
    assert collected(after, 1) == [alone(lm, PROMPTS[1], 4)]


def test_a_step_that_fails_ends_the_calls_with_rows_in_it_and_the_next_call_runs(
    lm, engine, monkeypatch
):
    running = engine.steps(tokens(lm, PROMPTS[:2]), [30, 30], ALWAYS, is_eager=True)
    next(running)
    with monkeypatch.context() as broken:
        broken.setattr(lm.model, "forward", None)  # calling it raises
        with pytest.raises(TypeError):
            list(running)
    after = engine.steps(tokens(lm, PROMPTS[1:2]), [4], ALWAYS, is_eager=False)
    assert collected(after, 1) == [alone(lm, PROMPTS[1], 4)]


def test_unwanted_rows_leave_and_the_others_are_complete(lm, engine):
    checks = itertools.count()
    steps = engine.steps(
        tokens(lm, PROMPTS[:3]), [30] * 3, lambda row: row != 1 or next(checks) < 8, is_eager=False
    )
    sequences = collected(steps, 3)
    assert len(sequences[1]) < 30
    assert [sequences[0], sequences[2]] == [alone(lm, PROMPTS[row], 30) for row in (0, 2)]


def test_a_caller_that_stops_reading_frees_the_engine(lm, engine):
    steps = engine.steps(tokens(lm, PROMPTS[:1]), [60], ALWAYS, is_eager=True)
    next(steps)
    steps.close()
    after = engine.steps(tokens(lm, PROMPTS[1:2]), [4], ALWAYS, is_eager=False)
    assert collected(after, 1) == [alone(lm, PROMPTS[1], 4)]


def test_more_rows_than_fit_into_memory_take_turns(lm, engine, monkeypatch):
    monkeypatch.setattr("cloud_stub.language.engine.rows_that_fit", lambda _vocabulary, _width: 2)
    steps = engine.steps(tokens(lm, PROMPTS), [9] * 5, ALWAYS, is_eager=True)
    steps = list(steps)
    assert max(len(step.rows) for step in itertools.chain.from_iterable(steps)) <= 2
    assert collected(steps, 5) == [alone(lm, prompt, 9) for prompt in PROMPTS]


def test_a_short_prompt_is_answered_while_long_ones_are_read(lm, engine, monkeypatch):
    for name in ("_PIECE", "_LEAST_COLUMNS"):
        monkeypatch.setattr(f"cloud_stub.language.engine.{name}", 1)
    checks, is_read, is_sent, is_answered = itertools.count(), *(threading.Event() for _ in "123")
    in_time = []

    def is_wanted(_row):  # called by the engine before each piece
        check = next(checks)
        if check == 1:
            is_read.set()
            assert is_sent.wait(PATIENCE_S)
        if check == 20:
            in_time.append(is_answered.wait(PATIENCE_S))
        return True

    def generate_long():
        prompt = tokens(lm, PROMPTS[1:2])[0]
        assert len(prompt) > 30
        answers.append(collected(engine.steps([prompt], [3], is_wanted, is_eager=True), 1))

    answers = []
    long = threading.Thread(target=generate_long)
    long.start()
    assert is_read.wait(PATIENCE_S)
    steps = engine.steps([tokens(lm, PROMPTS[:1])[0][:2]], [1], ALWAYS, is_eager=True)
    threading.Timer(0.05, is_sent.set).start()  # the engine waits until the call is there
    collected(steps, 1)
    is_answered.set()
    long.join()
    assert in_time == [True]
    assert answers == [[alone(lm, PROMPTS[1], 3)]]
