"""One step of a causal language model as an ONNX graph: tokens and caches in and out, logits out.

Prefill and decode are the same graph: the cache is empty at first. The hidden state is cut to the
last position before the output layer, which is most of the work where the vocabulary is large.
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
from export.exporters import cause_of, quiet
from export.language.attention import FusedCache, Pairs, attending
from train.models import LanguageModel

OPSET = 23  # the first with attention, rotary embedding and root mean square norm as operators
LEAST_ONNXRUNTIME = "1.23.1"  # 1.23.0 shares keys wrongly among heads: other tokens, no error
LOGITS = "logits"
_CUT = "logits_to_keep"  # what transformers calls it
_ALIKE = 1e-4  # how near the logits of both ways to attend are
_ROWS, _PAST, _TOKENS = 2, 3, 2  # of the example; nothing of them stays in the graph


@dataclass(frozen=True)
class Cache:
    """The shape of a cache: two tensors float32 [batch, heads, past, size] a layer.

    Attributes:
        layers: Decoder layers.
        heads: Heads of keys and values.
        size: Of one head.
    """

    layers: int
    heads: int
    size: int

    @classmethod
    def of(cls, model: Any) -> Cache:
        """Return the shape that a model's own cache has."""
        with torch.inference_mode():
            ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
            cache = model(input_ids=ids, use_cache=True).past_key_values
        sizes = {tuple(t.shape[1::2]) for layer in cache.layers for t in (layer.keys, layer.values)}
        if len(sizes) != 1:
            raise GraphError(
                f"expected caches of one shape in all layers, {type(model).__name__} has "
                f"{sorted(sizes)}: it cannot be exported yet"
            )
        heads, size = sizes.pop()
        return cls(len(cache.layers), heads, size)

    def names(self, prefix: str) -> list[str]:
        """Return the names of its tensors, layer by layer, key before value."""
        return [
            f"{prefix}{layer}.{part}" for layer in range(self.layers) for part in ("key", "value")
        ]

    def example(self, rows: int, past: int) -> list[tuple[Tensor, Tensor]]:
        """Return a cache of random values."""
        shape = (rows, self.heads, past, self.size)
        return [(torch.randn(shape), torch.randn(shape)) for _ in range(self.layers)]


class _Step(nn.Module):
    """Gives the logits of the last position, and the caches one token longer."""

    def __init__(self, causal: Any, *, fused: bool) -> None:
        super().__init__()
        self.causal = causal
        self.backbone = _backbone(causal)
        self.fused = fused
        self.cuts = _CUT in inspect.signature(causal.forward).parameters

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Pairs) -> tuple[Tensor, ...]:
        tokens = input_ids.shape[1]
        called = {
            "input_ids": input_ids,
            "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens:],
            "use_cache": True,
        }
        run = self._fused if self.fused else self._plain
        logits, present = run(called, attention_mask, past)
        return (logits, *(t for pair in present for t in pair))

    def _fused(
        self, called: dict[str, Any], attention_mask: Tensor, past: Pairs
    ) -> tuple[Tensor, Sequence[Any]]:
        cache = FusedCache(past, attention_mask)
        seen = cache.visible(called["input_ids"].shape[1])
        with attending(self.causal, cache):
            logits = self._last(**called, attention_mask=seen, past_key_values=cache)
        if None in cache.present:
            raise GraphError("expected a model that takes an attention function")
        return logits, cache.present

    def _plain(
        self, called: dict[str, Any], attention_mask: Tensor, past: Pairs
    ) -> tuple[Tensor, Sequence[Any]]:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        logits = self._last(**called, attention_mask=attention_mask, past_key_values=cache)
        return logits, [(layer.keys, layer.values) for layer in cache.layers]

    def _last(self, **called: Any) -> Tensor:
        """Return the logits of the last position, float [batch, V].

        The model cuts the hidden state itself, where it can: what it does to its logits, a scale or
        a soft cap, is then in the graph.
        """
        if self.cuts:
            logits: Tensor = self.causal(**called, **{_CUT: 1}).logits
            return logits.flatten(0, 1)
        hidden = self.backbone(**called).last_hidden_state
        last: Tensor = self.causal.get_output_embeddings()(hidden[:, -1])
        return last


def _backbone(causal: Any) -> Any:
    """Return what ends at the hidden states; not every architecture names it as its base."""
    found = (causal.base_model, causal.get_decoder())
    return next((module for module in found if module is not causal), causal)


def export_step(model: LanguageModel, file: Path) -> Cache:
    """Write the graph of one step; return the shape of its cache.

    Args:
        model: A causal language model with float32 weights.
        file: Where to; large weights go beside it.

    Raises:
        GraphError: It cannot be traced, or its layers have caches of different shapes.
    """
    cache = Cache.of(model.model)
    fused = _can_fuse(model, cache)
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Step(model.model, fused=fused).eval(),
                _example(cache, _ROWS, _PAST),
                dynamo=True,
                # With 23 keys that heads share stop the translation of attention as it is written.
                opset_version=OPSET if fused else PLAIN_OPSET,
                input_names=[
                    contract.INPUT_IDS,
                    contract.ATTENTION_MASK,
                    *cache.names(contract.PAST),
                ],
                output_names=[LOGITS, *cache.names(contract.PRESENT)],
                dynamic_shapes=_free(cache.layers),
                verbose=False,
            )
        assert program is not None  # noqa: S101 - narrows the type: with dynamo there is a program
        program.save(file)
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
    """Return whether the model attends alike through the operator.

    Not all take an attention function, and not all tell it how far their layers look back: so the
    example is longer than that.
    """
    window = getattr(model.model.config.get_text_config(), "sliding_window", None) or 0
    ids, mask, past = _example(cache, 1, _PAST + (window if window < model.context else 0))
    mask[:, : _PAST - 1] = 0  # filling
    try:
        fused, plain = (
            _Step(model.model, fused=way).eval()(ids, mask, past) for way in (True, False)
        )
    except Exception:  # noqa: BLE001 - the model's own code runs on a cache that it may not know
        return False
    return torch.allclose(fused[0], plain[0], atol=_ALIKE)


def _free(layers: int) -> tuple[Any, ...]:
    """Return the names of the axes that may have any size."""
    pair = {0: "batch", 2: "past"}
    return (
        {0: "batch", 1: "tokens"},
        {0: "batch", 1: "total"},
        [(dict(pair), dict(pair)) for _ in range(layers)],
    )
