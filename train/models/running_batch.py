"""Decodes a batch greedily, one token at a time; sequences join and leave between two steps.

The cache keeps the keys of every layer whole, also of a layer that looks back over a window only
(the attention mask knows the window): so all layers have the same columns as the attention mask.
"""

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

from train.models.decoding import Recorder, ends_of, left_padded

_PLAIN = {DynamicLayer, DynamicSlidingWindowLayer}


@dataclass(frozen=True)
class Step:
    """The next token of the rows of a batch.

    Attributes:
        rows: Names of the rows, int64 [k].
        tokens: int64 [k].
        neg_entropy: Negative entropy of the distribution, float64 [k].
        logprob: Log-probability of the token, float64 [k].
        ended: Whether the token is the row's last, bool [k].
    """

    rows: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    neg_entropy: npt.NDArray[np.float64]
    logprob: npt.NDArray[np.float64]
    ended: npt.NDArray[np.bool_]

    def of(self, chosen: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> Step:
        """Return some of its rows under other names.

        Args:
            chosen: Whether to take a row, bool [k].
            rows: New names of the chosen rows, int64 [chosen].
        """
        return Step(
            rows,
            self.tokens[chosen],
            self.neg_entropy[chosen],
            self.logprob[chosen],
            self.ended[chosen],
        )


class RunningBatch:
    """Answers that are generated together, one token of each per step.

    The tokens are those of `train.models.decoding.decode`, whatever else is in the batch. A model
    with its own kind of cache reads all tokens again at every step.

    Args:
        model: A causal language model in eval mode; it is not changed.
        tokenizer: Its tokenizer.
        prompts: Tokens of n prompts, none empty.
        rooms: Most tokens of each answer, at least 1.
        rows: Names of the rows; None numbers them from 0.

    Attributes:
        rows: Names of the rows that go on, int64 [n].
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
        """Tokens of the longest row, padding included."""
        return int(self._ids.shape[1])

    def read(self, most: int) -> bool:
        """Read some more columns of the prompts; the last column is left to `step`.

        Args:
            most: Number of columns to read.

        Returns:
            Whether more than that number are left, so that a step would take long.
        """
        if self._cache is None or self._unread <= most:
            return False
        self._forward(self._ids, self._mask, self._cache, self._read, self._read + most)
        self._read += most
        return self._unread > most

    def step(self) -> Step:
        """Generate a token for each row; rows that it ends leave the batch."""
        width = self.columns
        logits = self._forward(self._ids, self._mask, self._cache, self._read, width)
        recorder = Recorder()
        recorder(self._ids, logits)
        tokens = logits.argmax(dim=-1)
        self._room = self._room - 1
        values = tokens.cpu().numpy()
        step = Step(
            rows=self.rows,
            tokens=values,
            neg_entropy=recorder.neg_entropy[0].cpu().numpy(),
            logprob=recorder.logprob[0].cpu().numpy(),
            ended=np.isin(values, self._ends) | (self._room <= 0),
        )
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        self._mask = pad(self._mask, (0, 1), value=1)
        if self._cache is not None:
            self._read = width
        self.keep(~step.ended)
        return step

    def keep(self, going: npt.NDArray[np.bool_]) -> None:
        """Go on with some rows, and free the cache of the others.

        Args:
            going: Whether a row goes on, bool [n].
        """
        if going.all():
            return
        chosen = torch.from_numpy(going).to(self._ids.device)
        mask = self._mask[chosen]
        # Drop the columns in which no row has a token any more, or the batch would grow for ever.
        first = int(mask.any(dim=0).int().argmax()) if going.any() else 0
        if self._cache is not None:
            first = min(first, self._read)
        self.rows, self._room = self.rows[going], self._room[going]
        self._ids, self._mask = self._ids[chosen, first:], mask[:, first:]
        if self._cache is not None and self._read:
            keep_rows(self._cache, chosen, first)
            self._read -= first

    def join(self, other: RunningBatch) -> None:
        """Take over the rows of another batch of the same model.

        Args:
            other: The other batch, not to be used again. Both have made at least one step.
        """
        width = max(self.columns, other.columns)
        self._ids, self._mask = (
            torch.cat([_pad_columns(own, width), _pad_columns(added, width)])
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
    """A model's forward pass, with those of our arguments that its signature has."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._takes = inspect.signature(model.forward).parameters.keys()

    @torch.inference_mode()
    def __call__(self, ids: Tensor, mask: Tensor, cache: Any, begin: int, end: int) -> Tensor:
        """Read columns of sequences, and return the logits after the last, float32 [n, V].

        Args:
            ids: int64 [n, T].
            mask: int64 [n, T].
            cache: Cache of the columns before `begin`, extended by those read; or None.
            begin: The first column.
            end: The column after the last.
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


def _pad_columns(columns: Tensor, width: int) -> Tensor:
    """Return int64 [n, width], padded with zeros in front."""
    return pad(columns, (width - columns.shape[1], 0))


def new_cache(model: Any) -> Any:
    """Return an empty cache, or None for a model with other states than keys and values."""
    # There is no public way to ask: Mamba and related models keep states of another kind.
    if model._is_stateful or not model._supports_default_dynamic_cache():  # noqa: SLF001
        return None
    layers = DynamicCache(config=model.config).layers
    is_plain = {type(layer) for layer in layers} <= _PLAIN
    # In some models, layers use the keys of other layers.
    is_whole = len(layers) == model.config.get_text_config().num_hidden_layers
    return DynamicCache() if is_plain and is_whole else None


def keep_rows(cache: Any, rows: Tensor, first: int) -> None:
    """Drop rows and columns of a cache.

    Args:
        cache: The cache, of n rows and T columns.
        rows: Whether a row stays, bool [n].
        first: The first column that stays.
    """
    for layer in cache.layers:
        layer.keys = layer.keys[rows][:, :, first:]
        layer.values = layer.values[rows][:, :, first:]


def join_rows(cache: Any, other: Any) -> None:
    """Add the rows of another cache; the one with fewer columns is padded in front."""
    columns = max(cache.get_seq_length(), other.get_seq_length())
    for layer, added in zip(cache.layers, other.layers, strict=True):
        layer.keys = _join_states(layer.keys, added.keys, columns)
        layer.values = _join_states(layer.values, added.values, columns)


def _join_states(one: Tensor, other: Tensor, columns: int) -> Tensor:
    """Return the states of two batches, float [n, heads, columns, size], with zeros in front."""
    return torch.cat([pad(s, (0, 0, columns - s.shape[2], 0)) for s in (one, other)])
