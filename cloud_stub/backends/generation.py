"""What every generator of text has in common on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cloud_stub.backends.backend import FREE, Outputs, Parameter, Signature, TensorSpec
from edge_runtime import contract
from edge_runtime.wire.tensors import BYTES

MAX_TOKENS: Final = "max_tokens"
"""The parameter of a request that says how many tokens an answer may have."""
_HALF: Final = "\N{REPLACEMENT CHARACTER}"


def generation_signature(platform: str, max_new_tokens: int, *, is_batched: bool) -> Signature:
    """Return the signature of a generator: texts in, texts and their confidences out.

    Args:
        platform: What runs it.
        max_new_tokens: The most tokens that a request may ask for.
        is_batched: Whether requests of several callers can be answered as one batch.
    """
    return Signature(
        takes="text",
        inputs=(TensorSpec(contract.TEXT, BYTES, (FREE,)),),
        outputs=(
            TensorSpec(contract.TEXT, BYTES, (FREE,)),
            TensorSpec(contract.CONFIDENCE, "FP32", (FREE,)),
        ),
        is_batched=is_batched,
        platform=platform,
        parameters=(Parameter(MAX_TOKENS, 1, max_new_tokens),),
    )


def generation_outputs(texts: Sequence[str], confidence: npt.NDArray[np.float64]) -> Outputs:
    """Return a generator's outputs.

    Args:
        texts: n answers, whole or as far as they are known.
        confidence: float64 [n]; NaN where there is no token yet.
    """
    encoded = np.empty(len(texts), object)
    # Half of a surrogate pair is no text; an upstream's JSON may hold one.
    encoded[:] = [text.encode(errors="replace") for text in texts]
    return {contract.TEXT: encoded, contract.CONFIDENCE: confidence.astype(np.float32)}


def without_half(text: str) -> str:
    """Return a text that goes on without the character of which only some bytes are there yet."""
    return text.rstrip(_HALF)
