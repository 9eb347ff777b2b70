"""A hand-made task of a language model, and answers with known tokens."""

import numpy as np

from edge_runtime import metrics
from train.data.tasks import Example, Task
from train.language.answers import Answers, token_quantiles

COLOURS = ("red", "green", "blue")


def read_colour(text):
    """Return the colour that a text is, or None."""
    return text.strip() if text.strip() in COLOURS else None


def colours(n=12):
    """Return a task of n questions a split, each with its colour as the right answer."""
    examples = tuple(
        Example(f"q{i}", f"colour {i}:", f" {COLOURS[i % 3]}", COLOURS[i % 3]) for i in range(n)
    )
    return Task(
        "colours",
        examples,
        examples,
        examples,
        parse=read_colour,
        max_new_tokens=4,
        answers=COLOURS,
    )


def answers(logprob, right, *, counted=None, texts=None, watched=None):
    """Return answers whose tokens have these log-probabilities [n, T], and two-way entropies."""
    logprob = np.asarray(logprob, float)
    counted = np.ones(logprob.shape, bool) if counted is None else counted
    p = np.exp(np.minimum(logprob, -1e-300))
    rest = -np.expm1(np.minimum(logprob, -1e-300))
    entropy = p * logprob + rest * np.log(rest)
    right = np.asarray(right, bool)
    texts = tuple(np.where(right, " red", " green")) if texts is None else tuple(texts)
    return Answers(
        ids=tuple(f"q{i}" for i in range(len(right))),
        texts=texts,
        parsed=tuple(map(read_colour, texts)),
        right=right,
        confidence={
            kind: metrics.sequence_confidence(
                kind, neg_entropy=entropy, logprob=logprob, counted=counted
            )
            for kind in metrics.SEQUENCE_KINDS
        },
        quantiles=token_quantiles(logprob, counted),
        watched=np.full(len(right), np.nan) if watched is None else np.asarray(watched, float),
        tokens=counted.sum(axis=1),
        seconds=2.0,
        refused={},
    )
