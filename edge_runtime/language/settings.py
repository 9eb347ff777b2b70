"""Limits and special tokens of a decoder, from its bundle's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edge_runtime import contract
from edge_runtime.contract import GateMetadata
from edge_runtime.errors import BundleError

_MOST_TOKENS: Final = 2**31 - 1
# Names of caches are made, and room for them, before the graph is asked what it has.
_MOST: Final = {
    "max_new_tokens": _MOST_TOKENS,
    "context": _MOST_TOKENS,
    "layers": 2000,
    "kv_heads": 2**16,
    "head_dim": 2**16,
}


@dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    """The metadata's section `generation`.

    Attributes:
        max_new_tokens: Default limit of an answer, in tokens.
        context: Most tokens of prompt and answer together.
        eos_token_ids: Tokens that end an answer; the graph handles them.
        pad_token_id: Token that pads shorter prompts of a batch on the left.
        layers: Number of layers in the cache.
        kv_heads: Number of key and value heads of a layer.
        head_dim: Size of a head.
        least_onnxruntime: First version of ONNX Runtime that runs the graph correctly.
    """

    max_new_tokens: int
    context: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    layers: int
    kv_heads: int
    head_dim: int
    least_onnxruntime: tuple[int, ...] = ()

    @classmethod
    def from_metadata(cls, metadata: GateMetadata) -> DecoderSettings:
        """Read and check the settings; raise a `BundleError` if one is missing or wrong."""
        if metadata.task != contract.TASK_GENERATION:
            raise BundleError(
                f"expected a bundle for {contract.TASK_GENERATION}, got one for {metadata.task}: "
                "`python -m edge_runtime run` and `Cascade.open` take it"
            )
        fields = metadata.extra.get(contract.GENERATION)
        try:
            return _read(fields)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"expected the limits of a decoder under {contract.GENERATION!r} in the gate "
                f"metadata, got {str(fields)[:80]} ({error}): export the bundle again"
            ) from None


def _read(fields: Any) -> DecoderSettings:
    if not isinstance(fields, dict):
        raise TypeError("not an object")
    ends = fields["eos_token_ids"]
    if not isinstance(ends, list):
        raise TypeError("eos_token_ids is not a list")
    return DecoderSettings(
        eos_token_ids=tuple(_whole("eos_token_ids", end, 0) for end in ends),
        pad_token_id=_whole("pad_token_id", fields["pad_token_id"], 0),
        least_onnxruntime=_version(fields.get("least_onnxruntime", "0")),
        **{name: _whole(name, fields[name], 1, most) for name, most in _MOST.items()},
    )


def _version(value: Any) -> tuple[int, ...]:
    try:
        return tuple(map(int, value.split(".")))
    except (AttributeError, ValueError):
        raise ValueError(f"least_onnxruntime is {str(value)[:40]!r}") from None


def _whole(name: str, value: Any, least: int, most: int = _MOST_TOKENS) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]!r}")
    return value
