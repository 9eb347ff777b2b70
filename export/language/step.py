"""One step of a causal language model as an ONNX graph, from tokens and caches to logits.

Prefill and decode use the same graph; the cache is empty at first. The hidden state is cut to the
last position before the output layer, which is most of the work for a large vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from edge_runtime import contract
from export.errors import GraphError
from export.exporters import OPSET as PLAIN_OPSET
from export.exporters import cause_of, trace
from export.language.attention import FusedCache, Pairs, fuse_attention
from train.models import LanguageModel

OPSET = 23  # the first with attention, rotary embedding and root mean square norm as operators
LEAST_ONNXRUNTIME = "1.23.1"  # 1.23.0 shares keys among the wrong heads: other tokens, no error
_CUT = "logits_to_keep"  # the argument of transformers
_TOLERANCE = 1e-4  # between the logits of both kinds of attention
_ROWS, _PAST, _TOKENS = 2, 3, 2  # sizes of the example; none of them stays in the graph


@dataclass(frozen=True)
class Cache:
    """The shape of a cache: two tensors float32 [batch, heads, past, size] a layer.

    Attributes:
        layers: Number of decoder layers.
        heads: Number of heads of keys and values.
        size: Size of one head.
    """

    layers: int
    heads: int
    size: int

    @classmethod
    def of(cls, model: Any) -> Cache:
        """Return the shape of a model's own cache."""
        with torch.inference_mode():
            ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
            cache = model(input_ids=ids, use_cache=True).past_key_values
        sizes = {tuple(t.shape[1::2]) for layer in cache.layers for t in (layer.keys, layer.values)}
        if len(sizes) != 1:
            raise GraphError(
                f"expected caches of one shape in all layers, {type(model).__name__} has "
                f"{sorted(sizes)}: such a model cannot be exported yet"
            )
        heads, size = sizes.pop()
        return cls(len(cache.layers), heads, size)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the tensors, layer by layer, key before value."""
        return [
            f"{prefix}{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")
        ]

    def example(self, rows: int, past: int) -> list[tuple[Tensor, Tensor]]:
        """Return a cache of random values."""
        shape = (rows, self.heads, past, self.size)
        return [(torch.randn(shape), torch.randn(shape)) for _ in range(self.layers)]


class _Step(nn.Module):
    """A module from tokens and caches to the logits of the last position and the new caches."""

    def __init__(self, causal: Any, *, fused: bool) -> None:
        super().__init__()
        self.causal = causal
        self.backbone = _backbone(causal)
        self.fused = fused
        self.cuts = _CUT in inspect.signature(causal.forward).parameters

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Pairs) -> tuple[Tensor, ...]:
        tokens = input_ids.shape[1]
        arguments = {
            "input_ids": input_ids,
            "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens:],
            "use_cache": True,
        }
        run = self._fused if self.fused else self._plain
        logits, present = run(arguments, attention_mask, past)
        return (logits, *(t for pair in present for t in pair))

    def _fused(
        self, arguments: dict[str, Any], attention_mask: Tensor, past: Pairs
    ) -> tuple[Tensor, Sequence[Any]]:
        cache = FusedCache(past, attention_mask)
        mask = cache.visible(arguments["input_ids"].shape[1])
        with fuse_attention(self.causal, cache):
            logits = self._last_logits(**arguments, attention_mask=mask, past_key_values=cache)
        if None in cache.present:
            raise GraphError("expected a model that takes an attention function, got another")
        return logits, cache.present

    def _plain(
        self, arguments: dict[str, Any], attention_mask: Tensor, past: Pairs
    ) -> tuple[Tensor, Sequence[Any]]:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        logits = self._last_logits(
            **arguments, attention_mask=attention_mask, past_key_values=cache
        )
        return logits, [(layer.keys, layer.values) for layer in cache.layers]

    def _last_logits(self, **arguments: Any) -> Tensor:
        """Return the logits of the last position, float [batch, V].

        If the model can cut the hidden state itself, it does: the graph then includes what the
        model does to its logits, such as a scale or a soft cap.
        """
        if self.cuts:
            logits: Tensor = self.causal(**arguments, **{_CUT: 1}).logits
            return logits.flatten(0, 1)
        hidden = self.backbone(**arguments).last_hidden_state
        last: Tensor = self.causal.get_output_embeddings()(hidden[:, -1])
        return last


def _backbone(causal: Any) -> Any:
    """Return the part up to the hidden states; not every architecture calls it its base model."""
    modules = (causal.base_model, causal.get_decoder())
    return next((module for module in modules if module is not causal), causal)


def export_step(model: LanguageModel, file: Path) -> Cache:
    """Write the graph of one step of a model with float32 weights; return the shape of its cache.

    Raises:
        GraphError: The model cannot be traced, or its layers have caches of different shapes.
    """
    cache = Cache.of(model.model)
    fused = _can_fuse(model, cache)
    names = [contract.INPUT_IDS, contract.ATTENTION_MASK, *cache.names(contract.PAST)]
    pair = {0: "batch", 2: "past"}
    caches = [(dict(pair), dict(pair)) for _ in range(cache.layers)]
    try:
        trace(
            _Step(model.model, fused=fused).eval(),
            file,
            _example(cache, _ROWS, _PAST),
            # In 23, shared keys stop the translation of attention as written.
            opset=OPSET if fused else PLAIN_OPSET,
            input_names=names,
            output_names=[contract.LOGITS, *cache.names(contract.PRESENT)],
            dynamic_shapes=({0: "batch", 1: "tokens"}, {0: "batch", 1: "total"}, caches),
        )
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code
        raise GraphError(
            f"expected a language model that torch.onnx can trace, {type(model.model).__name__} "
            f"failed ({cause_of(error)}): try another torch or transformers"
        ) from None
    return cache


def _example(cache: Cache, rows: int, past: int) -> tuple[Tensor, Tensor, Pairs]:
    ids = torch.ones(rows, _TOKENS, dtype=torch.long)
    mask = torch.ones(rows, past + _TOKENS, dtype=torch.long)
    return ids, mask, cache.example(rows, past)


@torch.no_grad()
def _can_fuse(model: LanguageModel, cache: Cache) -> bool:
    """Return whether the model gives the same logits with the operator.

    Not every model takes an attention function, and not every one passes the window of its layers
    to it, so the example is longer than the window.
    """
    window = getattr(model.model.config.get_text_config(), "sliding_window", None) or 0
    ids, mask, past = _example(cache, 1, _PAST + (window if window < model.context else 0))
    mask[:, : _PAST - 1] = 0  # padding
    try:
        fused, plain = (
            _Step(model.model, fused=fuse).eval()(ids, mask, past) for fuse in (True, False)
        )
    except Exception:  # noqa: BLE001 - the model's own code may not support this cache
        return False
    return torch.allclose(fused[0], plain[0], atol=_TOLERANCE)
