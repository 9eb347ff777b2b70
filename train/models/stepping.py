"""Greedy decoding of one batch a token at a time: who reads along need not wait for the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.models.decoding import Recorder, ends_of, kept, left_padded


@dataclass(frozen=True)
class Step:
    """The next token of some rows of a batch.

    Attributes:
        rows: Which rows, int64 [k].
        tokens: int64 [k].
        neg_entropy: Negative entropy of the distribution, float64 [k].
        logprob: Log-probability of the token, float64 [k].
        ended: Whether it is the row's last, bool [k].
    """

    rows: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    neg_entropy: npt.NDArray[np.float64]
    logprob: npt.NDArray[np.float64]
    ended: npt.NDArray[np.bool_]


def step_by_step(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    rooms: Sequence[int],
    is_wanted: Callable[[int], bool] = lambda _: True,
) -> Iterator[Step]:
    """Yield the answers to prompts, one token of every row that goes on at a time.

    A row leaves with an end-of-sequence token, with its last token, or once nobody wants it. The
    tokens are those of `train.models.decoding.decode`.

    Args:
        model: A causal language model in eval mode; it is not changed.
        tokenizer: Its tokenizer.
        prompts: Tokens of n prompts, none empty.
        rooms: The most tokens of each answer, at least 1.
        is_wanted: Told a row, says whether anybody still waits for it.
    """
    forward, ends = _Forward(model), ends_of(model, tokenizer)
    sequences, mask = left_padded(prompts, tokenizer.pad_token_id, model.device)
    rows, room, made, cache = np.arange(len(prompts)), np.asarray(rooms), 0, None
    while len(rows):
        tokens, recorder, cache = forward(sequences, mask, cache)
        made, told = made + 1, tokens.cpu().numpy()
        step = Step(
            rows=rows,
            tokens=told,
            neg_entropy=recorder.neg_entropy[0].cpu().numpy(),
            logprob=recorder.logprob[0].cpu().numpy(),
            ended=np.isin(told, ends) | (room[rows] <= made),
        )
        yield step
        going = [
            not ended and is_wanted(row)
            for row, ended in zip(rows.tolist(), step.ended, strict=True)
        ]
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(tokens[:, None])], dim=1)
        if not all(going):
            chosen = torch.tensor(going, device=model.device)
            rows, sequences, mask = rows[going], sequences[chosen], mask[chosen]
            cache = kept(cache, chosen)


class _Forward:
    """A model's forward pass, with as much of what it can be given as it takes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes = inspect.signature(model.forward).parameters.keys()

    # Not around the whole loop: what runs between two steps is the caller's.
    @torch.inference_mode()
    def __call__(self, sequences: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Recorder, Any]:
        """Return the next token of each row, what was taken down of it, and the cache."""
        ids = sequences if cache is None else sequences[:, -1:]
        settings = {
            "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        settings = {name: value for name, value in settings.items() if name in self._takes}
        out = self._model(input_ids=ids, attention_mask=mask, **settings)
        scores, recorder = out.logits[:, -1].float(), Recorder()  # as transformers' `generate`
        recorder(ids, scores)
        return scores.argmax(dim=-1), recorder, getattr(out, "past_key_values", None)
