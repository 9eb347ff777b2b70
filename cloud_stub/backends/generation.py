"""What every generator of text has in common on the wire."""

from __future__ import annotations

from typing import Final

import numpy as np

from cloud_stub.backends.backend import FREE, Outputs, Parameter, Signature, TensorSpec
from edge_runtime import contract
from edge_runtime.wire.tensors import BYTES

MAX_TOKENS: Final = "max_tokens"
"""The parameter of a request that says how many tokens an answer may have."""
_HALF: Final = "\N{REPLACEMENT CHARACTER}"


def generation_signature(
    platform: str, max_new_tokens: int, *, is_batched: bool, is_continuous: bool = False
) -> Signature:
    """Return the signature of a generator: texts in, texts and their confidences out.

    Args:
        platform: What runs it.
        max_new_tokens: The most tokens that a request may ask for.
        is_batched: Whether requests of several callers can be answered as one batch.
        is_continuous: Whether a batch joins those that run.
    """
    return Signature(
        takes="text",
        inputs=(TensorSpec(contract.TEXT, BYTES, (FREE,)),),
        outputs=(
            TensorSpec(contract.TEXT, BYTES, (FREE,)),
            TensorSpec(contract.CONFIDENCE, "FP32", (FREE,)),
        ),
        is_batched=is_batched,
        is_continuous=is_continuous,
        platform=platform,
        parameters=(Parameter(MAX_TOKENS, 1, max_new_tokens),),
    )


class Answers:
    """The answers of a batch as far as they are known; at first empty, their confidences NaN.

    Args:
        rows: How many.
    """

    def __init__(self, rows: int) -> None:
        self._texts = np.full(rows, b"", object)
        self._confidence = np.full(rows, np.nan, np.float32)

    def put(self, row: int, text: str, confidence: float, *, is_whole: bool) -> None:
        """Say what is known of one; a character that is not whole yet waits for its other bytes.

        Args:
            row: Which.
            text: All of it so far.
            confidence: Likewise.
            is_whole: Whether nothing follows.
        """
        text = text if is_whole else text.rstrip(_HALF)
        # Half of a surrogate pair, which an upstream's JSON may hold, is no text.
        self._texts[row] = text.encode(errors="replace")
        self._confidence[row] = confidence

    def outputs(self) -> Outputs:
        """Return them as outputs, which later ones leave as they are."""
        return {
            contract.TEXT: self._texts.copy(),
            contract.CONFIDENCE: self._confidence.copy(),
        }
