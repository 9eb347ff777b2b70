"""Greedy answers of a causal language model, with what its confidences are made of.

transformers decodes; a logits processor stands beside it and takes down two numbers a token, so
that no distribution over the vocabulary outlives its step.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from edge_runtime import metrics

Floats = npt.NDArray[np.float64]
BATCH = 64
EMPTY = "the prompt is empty"
_LOWEST = -1e4  # exp of it is 0 in float64 already, and 0 * -1e4 is 0 where 0 * -inf is NaN


@dataclass(frozen=True)
class Generated:
    """The answers to n prompts, at most T tokens each.

    Attributes:
        texts: The answers, without special tokens.
        tokens: int64 [n, T]; what is not counted is filling.
        counted: Which tokens were generated, the end-of-sequence token among them, bool [n, T].
        neg_entropy: Negative entropy of the distribution at each token, float64 [n, T].
        logprob: Log-probability of each token, float64 [n, T].
        watched: Log-probability of the watched token as the first of the answer, float64 [n]; NaN
            where none was watched.
        refused: By row: why there is no answer.
        wall_time_s: Time that the answers took.
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
        """Return the confidence of each answer, float64 [n]; NaN, which defers, where none is.

        Args:
            kind: One of `metrics.SEQUENCE_KINDS`.
        """
        return metrics.sequence_confidence(
            kind, neg_entropy=self.neg_entropy, logprob=self.logprob, counted=self.counted
        )

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, of all rows together; 0 where none was."""
        return float(self.counted.sum() / self.wall_time_s) if self.wall_time_s else 0.0


class Recorder(LogitsProcessor):
    """Takes down entropy and log-probability of every greedy step, in float64.

    Args:
        watched: A token whose log-probability at the first step is wanted.
    """

    def __init__(self, watched: int | None = None) -> None:
        self.neg_entropy: list[Tensor] = []
        self.logprob: list[Tensor] = []
        self.watched: Tensor | None = None
        self._token = watched

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - not ours
        """Read the logits [n, V] of a step, and leave them as they are."""
        log_p = scores.double().log_softmax(dim=-1)
        # A NaN stays one: clamp hands it on.
        entropy = (log_p.exp() * log_p.clamp(min=_LOWEST)).sum(dim=-1)
        self.neg_entropy.append(entropy)
        self.logprob.append(log_p.gather(-1, scores.argmax(dim=-1, keepdim=True))[:, 0])
        if self._token is not None and self.watched is None:
            self.watched = log_p[:, self._token]
        return scores


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
    """Answer prompts greedily, until the end-of-sequence token or a limit.

    A prompt that is empty, or that leaves no room for an answer in the context, is not answered:
    its row has no tokens, and so the confidence NaN, which defers it.

    Args:
        model: A causal language model; its mode is kept.
        tokenizer: Its tokenizer.
        prompts: n texts.
        max_new_tokens: T, the most tokens of an answer; at least 0.
        context: The most tokens of prompt and answer together.
        batch_size: Prompts that are answered at once, alike in length.
        watch: A token whose log-probability as the first of the answer is wanted.
        progress: Called with the number of prompts that were just answered.
    """
    start = time.perf_counter()
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    refused = {
        i: reason
        for i, (prompt, ids) in enumerate(zip(prompts, encoded, strict=True))
        if (reason := _refusal(prompt, len(ids), context))
    }
    made = _Arrays(len(prompts), max_new_tokens)
    lengths = [0 if i in refused else len(ids) for i, ids in enumerate(encoded)]
    was_training = model.training
    model.eval()
    for room, batch in _batches(lengths, max_new_tokens, context, batch_size):
        tokens, recorder = _answer(model, tokenizer, [encoded[i] for i in batch], room, watch)
        made.put(batch, tokens, recorder, tokenizer.eos_token_id)
        if progress is not None:
            progress(len(batch))
    model.train(was_training)
    texts = [
        tokenizer.decode(ids[flags], skip_special_tokens=True)
        for ids, flags in zip(made.tokens, made.counted, strict=True)
    ]
    return made.generated(texts, refused, time.perf_counter() - start)


def _refusal(prompt: str, tokens: int, context: int) -> str | None:
    if not prompt.strip() or not tokens:
        return EMPTY
    if tokens >= context:
        return f"the prompt has {tokens} tokens, of the context's {context} none is left to answer"
    return None


def _batches(
    lengths: Sequence[int], most: int, context: int, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield (tokens that an answer may have, rows): alike in length, and all with that much room.

    What one prompt may answer must not depend on those beside it.
    """
    rows = sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__)
    for room, group in itertools.groupby(rows, lambda i: min(most, context - lengths[i])):
        alike = list(group)
        for first in range(0, len(alike) if room else 0, batch_size):
            yield room, alike[first : first + batch_size]


def _answer(
    model: Any, tokenizer: Any, prompts: list[list[int]], room: int, watch: int | None
) -> tuple[Tensor, Recorder]:
    """Return the new tokens int64 [n, at most room], and what was taken down."""
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor(
        [[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device
    )
    recorder = Recorder(watch)
    # Of the model's own generation_config nothing may bend the distribution.
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=room,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([recorder]),
        )
    return out[:, longest:].cpu(), recorder


class _Arrays:
    """What is filled in batch by batch."""

    def __init__(self, rows: int, tokens: int) -> None:
        self.tokens = np.zeros((rows, tokens), np.int64)
        self.counted = np.zeros((rows, tokens), np.bool_)
        self.neg_entropy = np.full((rows, tokens), np.nan)
        self.logprob = np.full((rows, tokens), np.nan)
        self.watched = np.full(rows, np.nan)

    def put(self, rows: list[int], tokens: Tensor, recorder: Recorder, eos: int) -> None:
        size = tokens.shape[1]
        at = np.ix_(rows, range(size))
        self.tokens[at] = tokens.numpy()
        ended = (tokens == eos).numpy()
        # The end itself counts; what comes behind it is filling.
        self.counted[at] = np.cumsum(ended, axis=1) - ended == 0
        self.neg_entropy[at] = torch.stack(recorder.neg_entropy, dim=1).cpu().numpy()
        self.logprob[at] = torch.stack(recorder.logprob, dim=1).cpu().numpy()
        if recorder.watched is not None:
            self.watched[rows] = recorder.watched.cpu().numpy()

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
