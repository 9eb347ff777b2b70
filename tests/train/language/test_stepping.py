"""Answers a token at a time are those of transformers' own generation."""

import dataclasses
import random

import numpy as np
import pytest
from tools.devices import cuda
from tools.language_models import DECODED, PROMPTS, SHAPE, by_hand, tiny, tolerance

pytestmark = pytest.mark.slow


PIECE = 7
"""Columns of a prompt that are read at once; most prompts here have more."""


def small(architecture, *, window=None):
    """Return a model; with a window half of its layers look back over so many tokens only."""
    heads = SHAPE.heads if architecture == "gpt2" else SHAPE.kv_heads
    lm = tiny(architecture, shape=dataclasses.replace(SHAPE, kv_heads=heads))
    if window is not None:
        lm.model.config.sliding_window = window
        for layer in lm.model.model.layers:
            if layer.self_attn.sliding_window is not None:
                layer.self_attn.sliding_window = window
    return lm


class Heard:
    """Tokens, negative entropies and log-probabilities of answers, by row."""

    def __init__(self):
        self.rows = {}

    def take(self, step):
        for i, row in enumerate(step.rows.tolist()):
            columns = self.rows.setdefault(row, ([], [], []))
            for column, values in zip(
                columns, (step.tokens, step.neg_entropy, step.logprob), strict=True
            ):
                column.append(values[i])


def begun(lm, prompts, rooms, rows, heard):
    """Return a batch that has read its prompts and said a token."""
    batch = lm.batch(lm.tokenizer(prompts)["input_ids"], rooms, rows)
    while batch.read(PIECE):
        pass
    heard.take(batch.step())
    return batch


def spoken(lm, prompts, rooms):
    """Return what each of some prompts is answered that begin together."""
    heard = Heard()
    batch = begun(lm, prompts, rooms, range(len(prompts)), heard)
    while len(batch):
        heard.take(batch.step())
    return [heard.rows[row] for row in range(len(prompts))]


def same(found, lm, prompt, room):
    tokens, neg_entropy, logprob = by_hand(lm, prompt, room)
    np.testing.assert_allclose(found[1], neg_entropy, atol=tolerance(lm) + 1e-5)
    np.testing.assert_allclose(found[2], logprob, atol=tolerance(lm) + 1e-5)
    return found[0] == tokens.tolist()


@pytest.mark.parametrize("architecture", DECODED)
def test_rows_of_any_length_say_what_each_alone_would(architecture):
    lm = small(architecture)
    rooms = [40, 3, 17, 1, 25]
    for prompt, room, found in zip(PROMPTS, rooms, spoken(lm, PROMPTS, rooms), strict=True):
        assert same(found, lm, prompt, room)


@pytest.mark.parametrize(
    ("architecture", "window"), [*((name, None) for name in DECODED), ("gemma2", 6)]
)
def test_who_joins_a_running_batch_says_what_each_alone_would(architecture, window):
    """Long ones join short ones and the other way, while others leave."""
    lm, heard, rng = small(architecture, window=window), Heard(), random.Random(0)
    prompts = PROMPTS * 3
    rooms = [rng.randint(1, 30) for _ in prompts]
    running, waiting = begun(lm, prompts[:1], [30], [0], heard), list(range(1, len(prompts)))
    rooms[0] = 30
    while waiting or len(running):
        if waiting and rng.random() < 0.4:
            rows = [waiting.pop(0) for _ in range(min(len(waiting), rng.randint(1, 3)))]
            others = begun(lm, [prompts[i] for i in rows], [rooms[i] for i in rows], rows, heard)
            if len(others) and len(running):
                running.join(others)
            elif len(others):
                running = others
        if len(running):
            heard.take(running.step())
    for row, (prompt, room) in enumerate(zip(prompts, rooms, strict=True)):
        assert same(heard.rows[row], lm, prompt, room)


def test_a_batch_that_others_join_for_ever_stays_as_wide_as_its_longest_row():
    lm, heard = small("llama"), Heard()
    running = begun(lm, PROMPTS[:1], [8], [0], heard)
    for row in range(1, 40):
        heard.take(running.step())
        running.join(begun(lm, PROMPTS[:1], [8], [row], heard))
    assert len(running) < 8
    prompt = len(lm.tokenizer(PROMPTS[0])["input_ids"])
    assert running.columns <= prompt + 8


def test_a_model_with_another_cache_reads_everything_again_and_says_the_same(monkeypatch):
    lm = small("llama")
    wanted = spoken(lm, PROMPTS[:3], [9, 4, 7])
    monkeypatch.setattr(type(lm.model), "_is_stateful", True)  # as Mamba's
    heard = Heard()
    running = begun(lm, PROMPTS[:2], [9, 4], [0, 1], heard)
    running.join(begun(lm, PROMPTS[2:3], [7], [2], heard))
    while len(running):
        heard.take(running.step())
    assert [heard.rows[row][0] for row in range(3)] == [tokens for tokens, _, _ in wanted]


def test_a_row_ends_with_its_end_of_sequence_token_or_its_last():
    lm = tiny("llama")
    prompt = lm.tokenizer(PROMPTS[:2])["input_ids"]
    (first, *_), _ = spoken(lm, PROMPTS[:2], [9, 9])
    # What it says fourth is the end from now on.
    lm.tokenizer.eos_token = lm.tokenizer.convert_ids_to_tokens(int(first[3]))
    batch, steps = lm.batch(prompt, [9, 2]), []
    while len(batch):
        steps.append(batch.step())
    ends = {int(row): n for n, step in enumerate(steps) for row in step.rows[step.ended]}
    assert ends == {0: first.index(first[3]), 1: 1}
    assert len(steps) == ends[0] + 1


def test_a_row_that_nobody_wants_any_more_takes_no_step():
    lm, heard = tiny("llama"), Heard()
    alone = spoken(lm, PROMPTS[:1], [12])
    both = lm.batch(lm.tokenizer(PROMPTS[:2])["input_ids"], [12, 12])
    while len(both):
        heard.take(both.step())
        if len(heard.rows[1][0]) == 4 and len(both) == 2:
            both.keep(np.array([True, False]))
    assert (len(heard.rows[0][0]), len(heard.rows[1][0])) == (12, 4)
    assert heard.rows[0][0] == alone[0][0]


@pytest.mark.parametrize("device", [cuda])
@pytest.mark.parametrize("architecture", DECODED)
def test_a_gpu_says_what_a_cpu_does(architecture, device):
    lm = small(architecture)
    rooms = [40, 3, 17, 1, 25]
    wanted = spoken(lm, PROMPTS, rooms)
    lm.model.to(device)
    for found, row in zip(spoken(lm, PROMPTS, rooms), wanted, strict=True):
        assert found[0] == row[0]
        np.testing.assert_allclose(found[1:], row[1:], atol=1e-4)
