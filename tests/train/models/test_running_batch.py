"""Answers generated one token at a time equal those of a whole forward pass per token."""

import dataclasses
import random

import numpy as np
import pytest
from tools.devices import cuda
from tools.language_models import DECODED, PROMPTS, SHAPE, by_hand, tiny, tolerance

pytestmark = pytest.mark.slow

PIECE = 7
"""Columns of a prompt that are read at once; most prompts here have more."""
ROOMS = [20, 3, 11, 1, 14]
LONGEST = max(ROOMS)


def small(architecture, *, window=None):
    """Return a model; with a window, half of its layers see only so many tokens."""
    heads = SHAPE.heads if architecture == "gpt2" else SHAPE.kv_heads
    lm = tiny(architecture, shape=dataclasses.replace(SHAPE, kv_heads=heads))
    if window is not None:
        lm.model.config.sliding_window = window
        for layer in lm.model.model.layers:
            if layer.self_attn.sliding_window is not None:
                layer.self_attn.sliding_window = window
    return lm


class Transcript:
    """Tokens, negative entropies and log-probabilities of answers, by row."""

    def __init__(self):
        self.rows = {}

    def add(self, step):
        for i, row in enumerate(step.rows.tolist()):
            columns = self.rows.setdefault(row, ([], [], []))
            for column, values in zip(
                columns, (step.tokens, step.neg_entropy, step.logprob), strict=True
            ):
                column.append(values[i])


def start(lm, prompts, rooms, rows, transcript):
    """Return a batch that has read its prompts and generated one token."""
    batch = lm.batch(lm.tokenizer(prompts)["input_ids"], rooms, rows)
    while batch.read(PIECE):
        pass
    transcript.add(batch.step())
    return batch


def generate(lm, prompts, rooms):
    """Return the answers to prompts that start together."""
    transcript = Transcript()
    batch = start(lm, prompts, rooms, range(len(prompts)), transcript)
    while len(batch):
        transcript.add(batch.step())
    return [transcript.rows[row] for row in range(len(prompts))]


def assert_by_hand(lm, answers):
    """Compare (prompt, room, answer) with greedy answers by hand, computed once per prompt."""
    longest = {prompt: by_hand(lm, prompt, LONGEST) for prompt in PROMPTS}
    for prompt, room, found in answers:
        tokens, neg_entropy, logprob = (values[:room] for values in longest[prompt])
        assert found[0] == tokens.tolist()
        np.testing.assert_allclose(found[1], neg_entropy, atol=tolerance(lm) + 1e-5)
        np.testing.assert_allclose(found[2], logprob, atol=tolerance(lm) + 1e-5)


@pytest.mark.parametrize("architecture", DECODED)
def test_rows_of_any_length_give_the_answers_of_each_alone(architecture):
    lm = small(architecture)
    answers = generate(lm, PROMPTS, ROOMS)
    assert_by_hand(lm, zip(PROMPTS, ROOMS, answers, strict=True))


@pytest.mark.parametrize(
    ("architecture", "window"), [*((name, None) for name in DECODED), ("gemma2", 6)]
)
def test_rows_that_join_a_running_batch_give_the_answers_of_each_alone(architecture, window):
    """Long rows join short ones and the other way round, while others leave."""
    lm, transcript, rng = small(architecture, window=window), Transcript(), random.Random(0)
    prompts = PROMPTS * 3
    rooms = [LONGEST, *(rng.randint(1, LONGEST) for _ in prompts[1:])]
    running = start(lm, prompts[:1], rooms[:1], [0], transcript)
    waiting = list(range(1, len(prompts)))
    while waiting or len(running):
        if waiting and rng.random() < 0.4:
            rows = [waiting.pop(0) for _ in range(min(len(waiting), rng.randint(1, 3)))]
            picked = ([prompts[i] for i in rows], [rooms[i] for i in rows])
            others = start(lm, *picked, rows, transcript)
            if len(others) and len(running):
                running.join(others)
            elif len(others):
                running = others
        if len(running):
            transcript.add(running.step())
    rows = (transcript.rows[row] for row in range(len(prompts)))
    assert_by_hand(lm, zip(prompts, rooms, rows, strict=True))


def test_a_batch_that_rows_keep_joining_stays_as_wide_as_its_longest_row():
    lm, transcript = small("llama"), Transcript()
    running = start(lm, PROMPTS[:1], [8], [0], transcript)
    for row in range(1, 24):
        transcript.add(running.step())
        running.join(start(lm, PROMPTS[:1], [8], [row], transcript))
    assert len(running) < 8
    prompt = len(lm.tokenizer(PROMPTS[0])["input_ids"])
    assert running.columns <= prompt + 8


def test_a_model_with_its_own_kind_of_cache_rereads_all_and_gives_the_same(monkeypatch):
    lm = small("llama")
    expected = generate(lm, PROMPTS[:3], [9, 4, 7])
    monkeypatch.setattr(type(lm.model), "_is_stateful", True)  # as Mamba's
    transcript = Transcript()
    running = start(lm, PROMPTS[:2], [9, 4], [0, 1], transcript)
    running.join(start(lm, PROMPTS[2:3], [7], [2], transcript))
    while len(running):
        transcript.add(running.step())
    assert [transcript.rows[row][0] for row in range(3)] == [tokens for tokens, _, _ in expected]


def test_a_row_ends_with_its_end_of_sequence_token_or_its_last():
    lm = tiny("llama")
    prompt = lm.tokenizer(PROMPTS[:2])["input_ids"]
    (first, *_), _ = generate(lm, PROMPTS[:2], [9, 9])
    # Its fourth token is the end of sequence from now on.
    lm.tokenizer.eos_token = lm.tokenizer.convert_ids_to_tokens(int(first[3]))
    batch, steps = lm.batch(prompt, [9, 2]), []
    while len(batch):
        steps.append(batch.step())
    ends = {int(row): n for n, step in enumerate(steps) for row in step.rows[step.ended]}
    assert ends == {0: first.index(first[3]), 1: 1}
    assert len(steps) == ends[0] + 1


def test_a_dropped_row_takes_no_further_step():
    lm, transcript = tiny("llama"), Transcript()
    alone = generate(lm, PROMPTS[:1], [12])
    both = lm.batch(lm.tokenizer(PROMPTS[:2])["input_ids"], [12, 12])
    while len(both):
        transcript.add(both.step())
        if len(transcript.rows[1][0]) == 4 and len(both) == 2:
            both.keep(np.array([True, False]))
    assert (len(transcript.rows[0][0]), len(transcript.rows[1][0])) == (12, 4)
    assert transcript.rows[0][0] == alone[0][0]


@pytest.mark.parametrize("device", [cuda])
@pytest.mark.parametrize("architecture", DECODED)
def test_a_gpu_gives_the_answers_of_a_cpu(architecture, device):
    lm = small(architecture)
    expected = generate(lm, PROMPTS, ROOMS)
    lm.model.to(device)
    for found, row in zip(generate(lm, PROMPTS, ROOMS), expected, strict=True):
        assert found[0] == row[0]
        np.testing.assert_allclose(found[1:], row[1:], atol=1e-4)
