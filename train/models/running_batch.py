"""Greedy decoding of a batch a token at a time; sequences come and go between two steps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# MERGEDOC train/models/caches.py: "Keys and values of sequences that come and go: rows of a cache are chosen, joined and cropped.\n\nThe cache keeps every layer's keys whole, also of a layer that looks back over a window only (the\nattention mask knows of the window): so all layers have the same columns as the attention mask.\n"
from train.models.decoding import Recorder, ends_of, left_padded

_PLAIN = {DynamicLayer, DynamicSlidingWindowLayer}


@dataclass(frozen=True)
class Step:
    """The next token of the rows of a batch.

    Attributes:
        rows: Their names, int64 [k].
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

    def of(self, chosen: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> Step:
        """Return some rows of it, under other names.

        Args:
            chosen: Which, bool [k].
            rows: What they are called, int64 [chosen].
        """
        return Step(
            rows,
            self.tokens[chosen],
            self.neg_entropy[chosen],
            self.logprob[chosen],
            self.ended[chosen],
        )


class RunningBatch:
    """Answers that are generated together, a token of each at a time.

    The tokens are those of `train.models.decoding.decode`, whoever is beside them. What a model
    with a cache of its own kind was given is read again at every step.

    Args:
        model: A causal language model in eval mode; it is not changed.
        tokenizer: Its tokenizer.
        prompts: Tokens of n prompts, none empty.
        rooms: The most tokens of each answer, at least 1.
        rows: What each is called; their places where None.

    Attributes:
        rows: The names of those that go on, int64 [n].
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[list[int]],
        rooms: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> None:
        self.rows = np.arange(len(prompts)) if rows is None else np.asarray(rows, np.int64)
        self._ends = ends_of(model, tokenizer)
        self._forward = _Forward(model)
        self._ids, self._mask = left_padded(prompts, tokenizer.pad_token_id, model.device)
        self._room = np.asarray(rooms)
        self._cache = new_cache(model)
        self._read = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> int:
        """Tokens of the longest row, what it is filled with among them."""
        return int(self._ids.shape[1])

    def read(self, most: int) -> bool:
        """Read on in the prompts, and leave the last column to `step`.

        Args:
            most: Columns to read.

        Returns:
            Whether there are more than so many left; then the first step would take long.
        """
        if self._cache is None or self._unread <= most:
            return False
        self._forward(self._ids, self._mask, self._cache, self._read, self._read + most)
        self._read += most
        return self._unread > most

    def step(self) -> Step:
        """Generate a token for each row; those that it ends leave."""
        width = self.columns
        logits = self._forward(self._ids, self._mask, self._cache, self._read, width)
        recorder = Recorder()
        recorder(self._ids, logits)
        tokens = logits.argmax(dim=-1)
        self._room = self._room - 1
        told = tokens.cpu().numpy()
        step = Step(
            rows=self.rows,
            tokens=told,
            neg_entropy=recorder.neg_entropy[0].cpu().numpy(),
            logprob=recorder.logprob[0].cpu().numpy(),
            ended=np.isin(told, self._ends) | (self._room <= 0),
        )
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        self._mask = pad(self._mask, (0, 1), value=1)
        if self._cache is not None:
            self._read = width
        self.keep(~step.ended)
        return step

    def keep(self, going: npt.NDArray[np.bool_]) -> None:
        """Go on with some rows; the others' part of the cache is freed.

        Args:
            going: Which, bool [n].
        """
        if going.all():
            return
        chosen = torch.from_numpy(going).to(self._ids.device)
        mask = self._mask[chosen]
        # Columns in which nobody has a token any more: or the batch would grow for ever.
        first = int(mask.any(dim=0).int().argmax()) if going.any() else 0
        if self._cache is not None:
            first = min(first, self._read)
        self.rows, self._room = self.rows[going], self._room[going]
        self._ids, self._mask = self._ids[chosen, first:], mask[:, first:]
        if self._cache is not None and self._read:
            keep_rows(self._cache, chosen, first)
            self._read -= first

    def join(self, other: RunningBatch) -> None:
        """Take in the rows of another batch of the same model.

        Args:
            other: It is not to be used any more. Both have made a step at least.
        """
        width = max(self.columns, other.columns)
        self._ids, self._mask = (
            torch.cat([_filled(own, width), _filled(added, width)])
            for own, added in ((self._ids, other._ids), (self._mask, other._mask))
        )
        self.rows = np.concatenate([self.rows, other.rows])
        self._room = np.concatenate([self._room, other._room])
        if self._cache is not None:
            join_rows(self._cache, other._cache)
            self._read = width - 1

    @property
    def _unread(self) -> int:
        return self.columns - self._read


class _Forward:
    """A model's forward pass, with as much of what it can be given as it takes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes = inspect.signature(model.forward).parameters.keys()

    @torch.inference_mode()
    def __call__(self, ids: Tensor, mask: Tensor, cache: Any, begin: int, end: int) -> Tensor:
        """Read columns of sequences, and return the scores behind the last, float32 [n, V].

        Args:
            ids: int64 [n, T].
            mask: int64 [n, T].
            cache: Of the columns before `begin`, which it takes those read to; or None.
            begin: The first column.
            end: The one behind the last.
        """
        settings = {
            "position_ids": (mask[:, :end].cumsum(dim=1) - 1).clamp(min=0)[:, begin:],
            "past_key_values": cache,
            "use_cache": cache is not None,
            "logits_to_keep": 1,
        }
        settings = {name: value for name, value in settings.items() if name in self._takes}
        out = self._model(input_ids=ids[:, begin:end], attention_mask=mask[:, :end], **settings)
        logits: Tensor = out.logits[:, -1].float()  # as transformers' `generate`
        return logits


def _filled(columns: Tensor, width: int) -> Tensor:
    """Return int64 [n, width], noughts in front."""
    return pad(columns, (width - columns.shape[1], 0))


def new_cache(model: Any) -> Any:
    """Return an empty cache, or None for a model that keeps other states than keys and values.

    Args:
        model: A causal language model.
    """
    # No public way to ask: Mamba and its kin keep states of another kind.
    if model._is_stateful or not model._supports_default_dynamic_cache():  # noqa: SLF001
        return None
    layers = DynamicCache(config=model.config).layers
    is_plain = {type(layer) for layer in layers} <= _PLAIN
    # Some layers use the keys of others.
    is_whole = len(layers) == model.config.get_text_config().num_hidden_layers
    return DynamicCache() if is_plain and is_whole else None


def keep_rows(cache: Any, rows: Tensor, first: int) -> None:
    """Leave out rows and columns.

    Args:
        cache: Of n rows and T columns.
        rows: Which stay, bool [n].
        first: The first column that stays.
    """
    for layer in cache.layers:
        layer.keys = layer.keys[rows][:, :, first:]
        layer.values = layer.values[rows][:, :, first:]


def join_rows(cache: Any, other: Any) -> None:
    """Add the rows of another cache; the one with fewer columns is filled in front."""
    columns = max(cache.get_seq_length(), other.get_seq_length())
    for layer, added in zip(cache.layers, other.layers, strict=True):
        layer.keys = torch.cat(
            [_filled_states(layer.keys, columns), _filled_states(added.keys, columns)]
        )
        layer.values = torch.cat(
            [_filled_states(layer.values, columns), _filled_states(added.values, columns)]
        )


def _filled_states(states: Tensor, columns: int) -> Tensor:
    """Return states float [n, heads, columns, size], noughts in front."""
    return pad(states, (0, 0, columns - states.shape[2], 0))
