"""Answers a token at a time are those of transformers' own generation."""

import dataclasses

import numpy as np
import pytest
from tools.devices import cuda
from tools.language_models import DECODED, PROMPTS, SHAPE, by_hand, tiny, tolerance

pytestmark = pytest.mark.slow


def spoken(lm, prompts, rooms, is_wanted=lambda _: True):
    """Return tokens, negative entropies and log-probabilities of each answer."""
    rows = [([], [], []) for _ in prompts]
    for step in lm.steps(lm.tokenizer(prompts)["input_ids"], rooms, is_wanted):
        for i, row in enumerate(step.rows):
            for column, values in zip(
                rows[row], (step.tokens, step.neg_entropy, step.logprob), strict=True
            ):
                column.append(values[i])
    return rows


@pytest.mark.parametrize("architecture", DECODED)
def test_rows_of_any_length_say_what_each_alone_would(architecture):
    heads = SHAPE.heads if architecture == "gpt2" else SHAPE.kv_heads
    lm = tiny(architecture, shape=dataclasses.replace(SHAPE, kv_heads=heads))
    rooms = [40, 3, 17, 1, 25]
    for prompt, room, found in zip(PROMPTS, rooms, spoken(lm, PROMPTS, rooms), strict=True):
        tokens, neg_entropy, logprob = by_hand(lm, prompt, room)
        assert found[0] == tokens.tolist()
        np.testing.assert_allclose(found[1], neg_entropy, atol=tolerance(lm) + 1e-5)
        np.testing.assert_allclose(found[2], logprob, atol=tolerance(lm) + 1e-5)


def test_a_row_ends_with_its_end_of_sequence_token_or_its_last():
    lm = tiny("llama")
    prompt = lm.tokenizer(PROMPTS[:2])["input_ids"]
    (first, *_), _ = spoken(lm, PROMPTS[:2], [9, 9])
    # What it says fourth is the end from now on.
    lm.tokenizer.eos_token = lm.tokenizer.convert_ids_to_tokens(int(first[3]))
    steps = list(lm.steps(prompt, [9, 2]))
    ends = {int(row): n for n, step in enumerate(steps) for row in step.rows[step.ended]}
    assert ends == {0: first.index(first[3]), 1: 1}
    assert len(steps) == ends[0] + 1


def test_a_row_that_nobody_wants_any_more_takes_no_step():
    lm = tiny("llama")
    alone = spoken(lm, PROMPTS[:1], [12])
    asked = []

    def is_wanted(row):
        asked.append(row)
        return row != 1 or asked.count(1) < 4

    both = spoken(lm, PROMPTS[:2], [12, 12], is_wanted)
    assert (len(both[0][0]), len(both[1][0])) == (12, 4)
    assert both[0][0] == alone[0][0]


@pytest.mark.parametrize("device", [cuda])
@pytest.mark.parametrize("architecture", DECODED)
def test_a_gpu_says_what_a_cpu_does(architecture, device):
    heads = SHAPE.heads if architecture == "gpt2" else SHAPE.kv_heads
    lm = tiny(architecture, shape=dataclasses.replace(SHAPE, kv_heads=heads))
    rooms = [40, 3, 17, 1, 25]
    wanted = spoken(lm, PROMPTS, rooms)
    lm.model.to(device)
    for found, row in zip(spoken(lm, PROMPTS, rooms), wanted, strict=True):
        assert found[0] == row[0]
        np.testing.assert_allclose(found[1:], row[1:], atol=1e-4)
