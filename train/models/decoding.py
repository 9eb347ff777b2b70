"""Greedy decoding of one batch by transformers, with two figures recorded at each step.

A logits processor of `generate` records entropy and log-probability of each token, so that no
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
_FEW = 8  # a batch of so few rows goes on until all have ended: restarting it does not pay
# In smaller models threads wait for each other longer than they work: 256 answers of 25,000 weights
# took 0.3 s with one thread, and 2 to 4 s with two on two cores that were shared.
_THREADED_WEIGHTS = 500_000


@dataclass(frozen=True)
class Steps:
    """The next tokens of some rows of a batch.

    Attributes:
        rows: Numbers of the rows, int64 [k].
        first: Number of new tokens that these rows had before.
        tokens: int64 [k, steps]; tokens after the end-of-sequence token are padding.
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
    """Records entropy and log-probability of every greedy step.

    Exponentials are float32 and sums of them float64: the error stays below 1e-6.

    Args:
        watched: Token whose log-probability at the first step is recorded, or None.
    """

    def __init__(self, watched: int | None = None) -> None:
        self.neg_entropy: list[Tensor] = []
        self.logprob: list[Tensor] = []
        self.watched: Tensor | None = None
        self._token = watched

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - transformers' signature
        """Record the step with these scores, float [n, V], and return them unchanged."""
        # With c = z - max z and S = sum exp c: the greedy token has -log S, the distribution
        # sum(c exp c) / S - log S. A NaN stays NaN: clamp passes it on.
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


class _HalfwayStop(StoppingCriteria):
    """Stops when half of the rows have ended, so that these are decoded no further."""

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

    They are the tokenizer's end of sequence and those of the model's `generation_config.json`, or
    without that file of its `config.json`: chat models end a turn with another token than a text.

    Args:
        model: A causal language model, outside of `greedy_mode`.
        tokenizer: Its tokenizer.
    """
    own = getattr(_base_model(model).generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, (list, tuple)) else (own,))}
    vocabulary = model.config.get_text_config().vocab_size
    # With another tokenizer, a configuration may still hold its library's default.
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
    """Yield the answers to prompts in parts; rows that have ended are left out of later parts.

    Args:
        model: A causal language model, inside `greedy_mode`.
        tokenizer: Its tokenizer.
        prompts: Tokens of n prompts, none empty.
        room: Most tokens of an answer, at least 1.
        watch: Token whose log-probability as the first of the answer is recorded, or None.
        ends: Tokens that end an answer; see `ends_of`.
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
            stopping_criteria=StoppingCriteriaList([_HalfwayStop(ending)]),
        )
        tokens = out.sequences[:, ids.shape[1] :]
        yield _steps(rows, first, tokens, recorder)
        going = ~torch.isin(tokens, ending).any(dim=1)
        rows, ids = rows[going.cpu()], out.sequences[going]
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)[going]
        cache = _select_rows(out.past_key_values, going)


def left_padded(
    prompts: Sequence[list[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return tokens and mask of prompts, int64 [n, longest], padded in front."""
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


def _select_rows(cache: Any, going: Tensor) -> Any:
    """Return the cache of the rows that go on, or None if it has to be computed again."""
    if not hasattr(cache, "batch_select_indices") or not going.any():
        return None
    cache.batch_select_indices(going)
    return cache


@contextmanager
def greedy_mode(model: Any) -> Iterator[None]:
    """Make a model decode purely greedily inside the block; restore its settings afterwards.

    transformers completes a `GenerationConfig` from the model's own: a repetition penalty there
    would bend the distribution, another end would cut the answer.
    """
    base = _base_model(model)
    own, training, threads = base.generation_config, model.training, torch.get_num_threads()
    base.generation_config = GenerationConfig()
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
        base.generation_config = own


def _base_model(model: Any) -> Any:
    """Return the model itself, without an adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
