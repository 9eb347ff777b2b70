"""Lets a model attend by ONNX's own operator, which holds the cache as well.

Traced as it is written, attention becomes some thirty operators a layer; on a small model calling
them takes longer than what they do. transformers lets a function be put in the place of attention
(its attention interface), and that one is `Attention` of opset 23: it takes the past and gives the
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
    """Stands where the model expects its cache: the past goes in whole, the present comes out.

    Args:
        past: Keys and values of each layer, float [batch, heads, past, size].
        attention_mask: int64 [batch, total], 0 where there is filling.

    Attributes:
        present: Keys and values of each layer with the new ones behind them, once it attended.
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
        """Return how many tokens there are before these."""
        return self.past[0][0].shape[2]

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the new keys and values alone: the operator puts them behind the past."""
        return keys, values

    def visible(self, tokens: int, window: int | None = None) -> Tensor:
        """Return what each token sees, bool [batch, 1, tokens, total].

        Args:
            tokens: The last of all, those that are new.
            window: How far a token looks back, itself counted; as far as there is when None.
        """
        if window not in self._visible:
            self._visible[window] = self._seen(tokens, window)[:, None]
        return self._visible[window]

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, **attributes: Any
    ) -> Tensor:
        """Attend, and keep what comes out for the next step.

        Args:
            layer: Whose cache.
            query: float [batch, heads, tokens, size].
            keys: float [batch, kv_heads, tokens, size], the new ones.
            values: The same.
            **attributes: `attn_mask` and `scale` of the operator.
        """
        past_keys, past_values = self.past[layer]
        attended, present_keys, present_values, _ = torch.onnx.ops.attention(
            query, keys, values, past_key=past_keys, past_value=past_values, **attributes
        )
        self.present[layer] = present_keys, present_values
        return attended

    def _seen(self, tokens: int, window: int | None) -> Tensor:
        total = self._mask.shape[1]
        at = torch.arange(total)
        of = torch.arange(total - tokens, total)[:, None]
        near = at <= of
        if window is not None:
            near = near & (at > of - window)
        # A filling sees itself: attention over nothing would be NaN.
        return (near & (self._mask[:, None] > 0)) | (at == of)


@contextlib.contextmanager
def attending(model: Any, cache: FusedCache) -> Iterator[None]:
    """Let a model attend through a cache; afterwards it attends as before.

    Args:
        model: Of transformers; nothing changes in one that does not take an attention function.
        cache: Of this call.

    Raises:
        GraphError: The model caps its attention.
    """

    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,  # noqa: ARG001 - that of the cache knows windows
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if softcap is not None:
            # The operator caps what it has masked, so that the masked is seen a little.
            raise GraphError("expected attention without a soft cap")
        visible = cache.visible(query.shape[2], sliding_window)
        attended = cache.attend(
            module.layer_idx, query, key, value, attn_mask=visible, scale=scaling
        )
        return attended.transpose(1, 2), None

    usual = model.config._attn_implementation  # noqa: SLF001 - the setter has no getter beside it
    ALL_ATTENTION_FUNCTIONS[_NAME] = attention
    try:
        model.set_attn_implementation(_NAME)
        yield
    finally:
        model.set_attn_implementation(usual)
        del ALL_ATTENTION_FUNCTIONS[_NAME]
