"""Keys and values of sequences that come and go: rows of a cache are chosen, joined and cropped.

The cache keeps every layer's keys whole, also of a layer that looks back over a window only (the
attention mask knows of the window): so all layers have the same columns as the attention mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_PLAIN = {DynamicLayer, DynamicSlidingWindowLayer}


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
        layer.keys = torch.cat([_filled_states(layer.keys, columns), _filled_states(added.keys, columns)])
        layer.values = torch.cat([_filled_states(layer.values, columns), _filled_states(added.values, columns)])


def _filled_states(states: Tensor, columns: int) -> Tensor:
    """Return states float [n, heads, columns, size], noughts in front."""
    return pad(states, (0, 0, columns - states.shape[2], 0))
