"""Greedy answers of a causal language model, with the figures that its confidences need."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edge_runtime import metrics
from edge_runtime.errors import InputError
from edge_runtime.inputs.texts import no_panic
from train.models.decoding import Steps, decode, ends_of, greedy_mode

Floats = npt.NDArray[np.float64]
BATCH = 256
EMPTY = "the prompt is empty"
# Most logits of one step: 64 MiB in float32, and about four times that for a moment.
_LOGITS = 1 << 24
_TOKENS = 1 << 15  # most tokens of a batch: every layer holds them


@dataclass(frozen=True)
class Generated:
    """The answers to n prompts, at most T tokens each.

    Attributes:
        texts: The answers, without special tokens.
        tokens: int64 [n, T]; tokens that are not counted are padding.
        counted: Whether a token was generated, the end-of-sequence token included, bool [n, T].
        neg_entropy: Negative entropy of the distribution at each token, float64 [n, T].
        logprob: Log-probability of each token, float64 [n, T].
        watched: Log-probability of the watched token as the first of the answer, float64 [n]; NaN
            if none was watched.
        refused: Row -> reason why it has no answer.
        wall_time_s: Time for all answers.
    """

    texts: tuple[str, ...]
    tokens: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    neg_entropy: Floats
    logprob: Floats
    watched: Floats
    refused: dict[int, str]
    wall_time_s: float

    def confidence(self, kind: str) -> Floats:
        """Return the confidence of each answer, float64 [n]; NaN, which defers, without an answer.

        Args:
            kind: One of `metrics.SEQUENCE_KINDS`.
        """
        return metrics.sequence_confidence(
            kind, neg_entropy=self.neg_entropy, logprob=self.logprob, counted=self.counted
        )


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    context: int,
    batch_size: int = BATCH,
    watch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Generated:
    """Answer prompts greedily, until a token that ends an answer (see `ends_of`) or a limit.

    A prompt that is empty or not valid text, or that leaves no room for an answer in the context,
    is not answered: its row has no tokens, so its confidence is NaN, which defers it.

    Args:
        model: A causal language model; its mode is kept, and of its own generation settings only
            the ends are used.
        tokenizer: Its tokenizer.
        prompts: n texts.
        max_new_tokens: T, the most tokens of an answer; at least 0.
        context: Most tokens of prompt and answer together.
        batch_size: Most prompts that are answered at once; fewer if they are long or the
            vocabulary is large.
        watch: Token whose log-probability as the first of the answer is recorded, or None.
        progress: Called with the number of prompts just answered.

    Raises:
        InputError: `max_new_tokens` or `batch_size` is out of range.
    """
    if max_new_tokens < 0 or batch_size < 1:
        raise InputError(
            "expected max_new_tokens of at least 0 and batch_size of at least 1, got "
            f"{max_new_tokens} and {batch_size}"
        )
    start = time.perf_counter()
    encoded = encode(tokenizer, prompts)
    refused = {
        i: reason
        for i, (prompt, ids) in enumerate(zip(prompts, encoded, strict=True))
        if (reason := refusal(prompt, ids, max_new_tokens, context))
    }
    accepted = {i: ids for i, ids in enumerate(encoded) if ids and i not in refused}
    batch_size = min(batch_size, max(1, _LOGITS // model.config.get_text_config().vocab_size))
    arrays, ends = _Arrays(len(prompts), max_new_tokens), ends_of(model, tokenizer)
    with greedy_mode(model), torch.inference_mode():
        for room, rows in _batches(accepted, max_new_tokens, context, batch_size):
            batch = [accepted[i] for i in rows]
            for steps in decode(model, tokenizer, batch, room, watch, ends=ends):
                arrays.put(rows, steps, ends)
            if progress is not None:
                progress(len(rows))
    # Not every tokenizer treats its ends as special tokens.
    visible = arrays.counted & ~np.isin(arrays.tokens, ends)
    texts = [
        tokenizer.decode(ids[flags], skip_special_tokens=True)
        for ids, flags in zip(arrays.tokens, visible, strict=True)
    ]
    return arrays.generated(texts, refused, time.perf_counter() - start)


def rows_that_fit(vocabulary: int, width: int) -> int:
    """Return the most rows that can be decoded together in bounded memory, at least 1.

    Args:
        vocabulary: V, the size of a distribution over tokens.
        width: Tokens of the longest row, its answer included.
    """
    return max(1, min(_LOGITS // vocabulary, _TOKENS // width))


def encode(tokenizer: Any, prompts: Sequence[str]) -> list[list[int] | None]:
    """Return the tokens of each prompt; None for a prompt that is not valid text."""
    valid = [i for i, prompt in enumerate(prompts) if _is_text(prompt)]
    encoded: list[list[int] | None] = [None] * len(prompts)
    if valid:
        with no_panic():
            found = tokenizer([prompts[i] for i in valid])["input_ids"]
        for i, ids in zip(valid, found, strict=True):
            encoded[i] = ids
    return encoded


def _is_text(prompt: str) -> bool:
    # Bytes that are not UTF-8 arrive as lone surrogates from file names, arguments and JSON.
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return True


def refusal(prompt: str, ids: list[int] | None, most: int, context: int) -> str | None:
    """Return the reason why a prompt is not answered, or None if it is."""
    if ids is None:
        return "the prompt is not valid text: it holds half of a surrogate pair"
    if not prompt.strip() or not ids:
        return EMPTY
    if not most:
        return "no token may be generated: max_new_tokens is 0"
    if len(ids) >= context:
        return (
            f"the prompt has {len(ids)} tokens: the context of {context} has no room for an answer"
        )
    return None


def _batches(
    prompts: dict[int, list[int]], most: int, context: int, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (most tokens of an answer, rows) of similar length, and all with that limit.

    The limit of a prompt must not depend on the other prompts of its batch.
    """
    by_length = sorted(prompts, key=lambda i: len(prompts[i]))
    for room, group in itertools.groupby(by_length, lambda i: min(most, context - len(prompts[i]))):
        rows = list(group)
        while rows:
            # The longest first: its length decides how many others fit.
            size = min(batch_size, max(1, _TOKENS // (len(prompts[rows[-1]]) + room)))
            rows, batch = rows[:-size], rows[-size:]
            yield room, batch


class _Arrays:
    """The arrays of `Generated`, filled part by part."""

    def __init__(self, rows: int, tokens: int) -> None:
        self.tokens = np.zeros((rows, tokens), np.int64)
        self.counted = np.zeros((rows, tokens), np.bool_)
        self.neg_entropy = np.full((rows, tokens), np.nan)
        self.logprob = np.full((rows, tokens), np.nan)
        self.watched = np.full(rows, np.nan)

    def put(self, batch: list[int], steps: Steps, ends: Sequence[int]) -> None:
        rows = np.asarray(batch)[steps.rows.numpy()]
        tokens = steps.tokens.numpy()
        at = np.ix_(rows, range(steps.first, steps.first + tokens.shape[1]))
        self.tokens[at] = tokens
        ended = np.isin(tokens, ends)
        # The end itself counts; tokens after it are padding.
        self.counted[at] = np.cumsum(ended, axis=1) - ended == 0
        self.neg_entropy[at] = steps.neg_entropy.numpy()
        self.logprob[at] = steps.logprob.numpy()
        if steps.watched is not None:
            self.watched[rows] = steps.watched.numpy()

    def generated(self, texts: list[str], refused: dict[int, str], wall_s: float) -> Generated:
        longest = int(self.counted.sum(axis=1).max(initial=0))
        return Generated(
            texts=tuple(texts),
            tokens=self.tokens[:, :longest],
            counted=self.counted[:, :longest],
            neg_entropy=self.neg_entropy[:, :longest],
            logprob=self.logprob[:, :longest],
            watched=self.watched,
            refused=refused,
            wall_time_s=wall_s,
        )
