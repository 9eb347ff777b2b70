"""What `python -m export inspect` says of a language model's bundle."""

from __future__ import annotations

from typing import Any

from edge_runtime.bundle import Bundle
from edge_runtime.decoding.settings import DecoderSettings
from edge_runtime.texts import open_tokenizer, tokenizer_file
from export.verification import quantized_in_words

_NUMBER_BYTES = 4  # caches are float32, whatever the weights are


def describe_decoder(bundle: Bundle) -> list[str]:
    """Return lines on tokenizer, limits, cache and verification.

    Raises:
        BundleError: The tokenizer does not open, or the limits have no sense.
    """
    limits = DecoderSettings.from_metadata(bundle.metadata)
    file = tokenizer_file(bundle)
    tokenizer = open_tokenizer(file)
    ends = ", ".join(f"{tokenizer.id_to_token(end)!r} ({end})" for end in limits.eos_token_ids)
    numbers = 2 * limits.layers * limits.kv_heads * limits.head_dim
    return [
        f"tokenizer: {file.name}, {tokenizer.get_vocab_size():,} tokens",
        f"answers: at most {limits.max_new_tokens} tokens, {limits.context} together with the "
        f"prompt; ended by {ends}",
        f"cache: {limits.layers} layers, {limits.kv_heads} heads of {limits.head_dim} numbers: "
        f"{numbers * _NUMBER_BYTES:,} bytes a token",
        *_verified(bundle.verification),
    ]


def _verified(record: dict[str, Any]) -> list[str]:
    try:
        graph = record["graph"]
        lines = [
            f"verified: the float graph gave PyTorch's tokens and decisions on {graph['prompts']} "
            f"prompts, confidences to {graph['confidence_error']:.1e}"
        ]
        return [*lines, *_quantized(record)]
    except (KeyError, TypeError, ValueError):  # another toolkit's
        return []


def _quantized(record: dict[str, Any]) -> list[str]:
    return [quantized_in_words(record["quantization"])] if "quantization" in record else []
