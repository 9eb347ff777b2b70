"""Replaces a model's attention by ONNX's own operator, which also holds the cache.

Traced as written, attention becomes some thirty operators a layer; in a small model the calls take
longer than the computation. transformers accepts another function in place of attention (its
attention interface). This one is `Attention` of opset 23, which takes the past and gives the
present, shares keys and values among heads, and scales.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from export.errors import GraphError

Pairs = Sequence[tuple[Tensor, Tensor]]
_NAME: Final = "gatekeeper_onnx"


class FusedCache:
    """A replacement for the model's cache, which takes the whole past and keeps the present.

    Args:
        past: Keys and values of each layer, float [batch, heads, past, size].
        attention_mask: int64 [batch, total], 0 for padding.

    Attributes:
        present: Keys and values of each layer including the new ones; None before it attended.
    """

    is_compileable = False
    is_sliding = (False,)

    def __init__(self, past: Pairs, attention_mask: Tensor) -> None:
        self.past = past
        self.present: list[tuple[Tensor, Tensor] | None] = [None] * len(past)
        self._mask = attention_mask
        self._visible: dict[int | None, Tensor] = {}

    def __len__(self) -> int:
        return len(self.past)

    def get_seq_length(self, *_: Any) -> int:
        """Return the number of tokens before the new ones."""
        return self.past[0][0].shape[2]

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return only the new keys and values: the operator appends them to the past."""
        return keys, values

    def visible(self, tokens: int, window: int | None = None) -> Tensor:
        """Return the mask of positions that each token attends to, bool [batch, 1, tokens, total].

        Args:
            tokens: Number of new tokens, the last of all.
            window: Positions that a token attends to including its own; None for all before it.
        """
        if window in self._visible:
            return self._visible[window]
        total = self._mask.shape[1]
        at = torch.arange(total)
        of = torch.arange(total - tokens, total)[:, None]
        near = at <= of
        if window is not None:
            near = near & (at > of - window)
        # Padding attends to itself: attention over nothing would be NaN.
        mask = (near & (self._mask[:, None] > 0)) | (at == of)
        self._visible[window] = mask[:, None]
        return self._visible[window]

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, **attributes: Any
    ) -> Tensor:
        """Attend in one layer, and keep the present keys and values.

        Queries, new keys and new values are float [batch, heads, tokens, size], where keys and
        values may have fewer heads. The attributes are `attn_mask` and `scale` of the operator.
        """
        past_keys, past_values = self.past[layer]
        attended, present_keys, present_values, _ = torch.onnx.ops.attention(
            query, keys, values, past_key=past_keys, past_value=past_values, **attributes
        )
        self.present[layer] = present_keys, present_values
        return attended


@contextlib.contextmanager
def fuse_attention(model: Any, cache: FusedCache) -> Iterator[None]:
    """Replace the attention of a model of transformers by the operator, within a block.

    A model without the attention interface is left unchanged.

    Raises:
        GraphError: The model caps its attention.
    """

    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # noqa: ARG001 - the cache has a mask with windows
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if softcap is not None:
            # The operator caps after it masks, so that masked positions would contribute a little.
            raise GraphError("expected attention without a soft cap, got one with a soft cap")
        visible = cache.visible(query.shape[2], sliding_window)
        attended = cache.attend(
            module.layer_idx, query, key, value, attn_mask=visible, scale=scaling
        )
        return attended.transpose(1, 2), None

    usual = model.config._attn_implementation  # noqa: SLF001 - the setter has no public getter
    ALL_ATTENTION_FUNCTIONS[_NAME] = attention
    try:
        model.set_attn_implementation(_NAME)
        yield
    finally:
        model.set_attn_implementation(usual)
        del ALL_ATTENTION_FUNCTIONS[_NAME]
