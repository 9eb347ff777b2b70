"""Generated answers on the wire, the same for every kind of generator."""

from __future__ import annotations

from typing import Final

import numpy as np

from cloud_stub.backends.backend import FREE, Outputs, Parameter, Signature, TensorSpec
from edge_runtime import contract
from edge_runtime.wire.tensors import BYTES

MAX_TOKENS: Final = "max_tokens"
"""Parameter of a request: the most tokens of its answer."""
_PARTIAL: Final = "\N{REPLACEMENT CHARACTER}"


def generation_signature(
    platform: str, max_new_tokens: int | None, *, is_batched: bool, is_continuous: bool = False
) -> Signature:
    """Return the signature of a generator: texts in, texts and their confidences out.

    Args:
        platform: Name of what runs it.
        max_new_tokens: The most tokens that a request may ask for; None if it cannot ask.
        is_batched: Whether requests of several callers can be answered as one batch.
        is_continuous: Whether a batch joins those that are running.
    """
    text = TensorSpec(contract.TEXT, BYTES, (FREE,))
    return Signature(
        takes="text",
        inputs=(text,),
        outputs=(text, TensorSpec(contract.CONFIDENCE, "FP32", (FREE,))),
        is_batched=is_batched,
        is_continuous=is_continuous,
        platform=platform,
        parameters=() if max_new_tokens is None else (Parameter(MAX_TOKENS, 1, max_new_tokens),),
    )


class Answers:
    """The answers of a batch so far; at first empty, with NaN as confidence.

    Args:
        rows: Number of answers.
    """

    def __init__(self, rows: int) -> None:
        self._texts = np.full(rows, b"", object)
        self._confidence = np.full(rows, np.nan, np.float32)

    def put(self, row: int, text: str, confidence: float, *, is_whole: bool) -> None:
        """Set one answer; a partial character at its end is held back until its bytes are there.

        Args:
            row: The answer's row.
            text: Its text so far.
            confidence: Its confidence so far.
            is_whole: Whether the answer is complete.
        """
        # An upstream's JSON may split a surrogate pair between two chunks, or hold half of one.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        self._texts[row] = (text if is_whole else text.rstrip(_PARTIAL)).encode()
        self._confidence[row] = confidence

    def outputs(self) -> Outputs:
        """Return a copy as outputs."""
        return {contract.TEXT: self._texts.copy(), contract.CONFIDENCE: self._confidence.copy()}
