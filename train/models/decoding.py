"""Greedy decoding of one batch by transformers, and what is taken down at each step.

A logits processor stands beside `generate` and takes down two numbers a token, so that no
distribution over the vocabulary outlives its step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

_LOWEST = -1e4  # exp of it is 0 in float32 already, and 0 * -1e4 is 0 where 0 * -inf is NaN
_FEW = 8  # rows that are not worth a new start without those that have ended
# Below, threads wait for each other longer than they work: 256 answers of 25,000 weights took
# 0.3 s with one thread, 2 to 4 s with two on two cores that others used as well.
_THREADED_WEIGHTS = 500_000


@dataclass(frozen=True)
class Steps:
    """The next tokens of some rows of a batch.

    Attributes:
        rows: Which rows, int64 [k].
        first: How many new tokens these rows had before.
        tokens: int64 [k, steps]; behind the end-of-sequence token is filling.
        neg_entropy: float64 [k, steps].
        logprob: float64 [k, steps].
        watched: Log-probability of the watched token at the first step, float64 [k], or None.
    """

    rows: Tensor
    first: int
    tokens: Tensor
    neg_entropy: Tensor
    logprob: Tensor
    watched: Tensor | None


class Recorder(LogitsProcessor):
    """Takes down entropy and log-probability of every greedy step.

    Exponentials are float32 and sums of them float64: the error stays under 1e-6.

    Args:
        watched: A token whose log-probability at the first step is wanted.
    """

    def __init__(self, watched: int | None = None) -> None:
        self.neg_entropy: list[Tensor] = []
        self.logprob: list[Tensor] = []
        self.watched: Tensor | None = None
        self._token = watched

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - transformers' signature
        """Take down what scores float [n, V] say, and leave them as they are."""
        # With c = z - max z and S = sum exp c: the greedy token has -log S, the distribution
        # sum(c exp c) / S - log S. A NaN stays one: clamp hands it on.
        greatest = scores.amax(dim=-1, keepdim=True).float()
        below = scores.float() - greatest
        weights = below.exp()
        total = weights.sum(dim=-1, dtype=torch.float64)
        log_total = total.log()
        if self._token is not None and self.watched is None:
            self.watched = scores[:, self._token].double() - greatest[:, 0].double() - log_total
        weights.mul_(below.clamp_(min=_LOWEST))
        self.neg_entropy.append(weights.sum(dim=-1, dtype=torch.float64) / total - log_total)
        self.logprob.append(-log_total)
        return scores


class _HalfEnded(StoppingCriteria):
    """Stops where half of the rows have ended, so that they are not decoded on."""

    def __init__(self, ends: Tensor) -> None:
        self._ends = ends
        self._ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ARG002 - transformers' signature
        now = torch.isin(input_ids[:, -1], self._ends)
        self._ended = now if self._ended is None else self._ended | now
        rows = len(input_ids)
        stop = rows > _FEW and 2 * int(self._ended.sum()) >= rows
        return torch.full((rows,), stop, device=input_ids.device)


def ends_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer, in ascending order.

    They are the tokenizer's end of sequence, and those of the model's `generation_config.json`, or
    of its `config.json` where there is no such file: models that were taught to chat end a turn
    with another token than a text.

    Args:
        model: A causal language model, not inside `ready`.
        tokenizer: Its tokenizer.
    """
    own = getattr(_inner(model).generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, (list, tuple)) else (own,))}
    vocabulary = model.config.get_text_config().vocab_size
    # A configuration keeps its library's default where the tokenizer is another.
    return tuple(sorted(end for end in ends if end is not None and 0 <= end < vocabulary))


def decode(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    room: int,
    watch: int | None = None,
    *,
    ends: Sequence[int],
) -> Iterator[Steps]:
    """Yield the answers to prompts piece by piece; rows that have ended stay out of later pieces.

    Args:
        model: A causal language model, inside `ready`.
        tokenizer: Its tokenizer.
        prompts: Tokens of n prompts, none empty.
        room: The most tokens of an answer, at least 1.
        watch: A token whose log-probability as the first of the answer is wanted.
        ends: The tokens that end an answer; see `ends_of`.
    """
    ids, mask = left_padded(prompts, tokenizer.pad_token_id, model.device)
    longest, ending = ids.shape[1], torch.tensor(ends, device=model.device)
    rows, cache = torch.arange(len(ids)), None
    while len(ids) and ids.shape[1] < longest + room:
        first = ids.shape[1] - longest
        recorder = Recorder(watch if first == 0 else None)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=room - first,
                eos_token_id=list(ends),
                pad_token_id=tokenizer.pad_token_id,
                return_dict_in_generate=True,
            ),
            logits_processor=LogitsProcessorList([recorder]),
            stopping_criteria=StoppingCriteriaList([_HalfEnded(ending)]),
        )
        tokens = out.sequences[:, ids.shape[1] :]
        yield _steps(rows, first, tokens, recorder)
        going = ~torch.isin(tokens, ending).any(dim=1)
        rows, ids = rows[going.cpu()], out.sequences[going]
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)[going]
        cache = kept(out.past_key_values, going)


def left_padded(
    prompts: Sequence[list[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return tokens and mask of prompts, int64 [n, longest], filling in front."""
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _steps(rows: Tensor, first: int, tokens: Tensor, recorder: Recorder) -> Steps:
    return Steps(
        rows=rows,
        first=first,
        tokens=tokens.cpu(),
        neg_entropy=torch.stack(recorder.neg_entropy, dim=1).cpu(),
        logprob=torch.stack(recorder.logprob, dim=1).cpu(),
        watched=None if recorder.watched is None else recorder.watched.cpu(),
    )


def kept(cache: Any, going: Tensor) -> Any:
    """Return a cache of the rows that go on, or None where it has to be computed again."""
    if not hasattr(cache, "batch_select_indices") or not going.any():
        return None
    cache.batch_select_indices(going)
    return cache


@contextmanager
def ready(model: Any) -> Iterator[None]:
    """Set a model up to decode greedily and nothing else; behind it, it is as it was.

    transformers fills what a `GenerationConfig` leaves open from the model's own: a penalty for
    repetition there would bend the distribution, another end would cut the answer.
    """
    inner = _inner(model)
    own, training, threads = inner.generation_config, model.training, torch.get_num_threads()
    inner.generation_config = GenerationConfig()
    model.eval()
    if (
        model.device.type == "cpu"
        and sum(p.numel() for p in model.parameters()) < _THREADED_WEIGHTS
    ):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        model.train(training)
        inner.generation_config = own


def _inner(model: Any) -> Any:
    """Return the model itself where it is in an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
