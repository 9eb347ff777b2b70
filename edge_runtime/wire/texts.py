"""Reading the texts that a generating engine answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.errors import CloudProtocolError
from edge_runtime.wire import messages as pb
from edge_runtime.wire.answers import confidence_of, one_each
from edge_runtime.wire.tensors import Array


class TextReader:
    """How to read an engine that generates text; stands where `AnswerReader` does.

    Args:
        output: The output that holds the texts, BYTES [n].
    """

    def __init__(self, output: str | None) -> None:
        self.output = output or contract.TEXT

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return no class for any of them, int64 [n]."""
        return np.full(len(names), contract.NO_CLASS, np.int64)

    def read_raw(self, _: pb.ModelInferResponse, __: int) -> None:
        """Leave every response to `read`."""
        return

    def read(
        self, outputs: dict[str, Array], rows: int
    ) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Return texts and confidences of n rows, or raise a `CloudProtocolError`."""
        found = outputs.get(self.output)
        if found is None or found.dtype != object or found.shape not in one_each(rows):
            came = ", ".join(f"{n} {a.dtype} {list(a.shape)}" for n, a in outputs.items())
            raise CloudProtocolError(
                f"expected texts [{rows}] in the output {self.output!r}, got {came[:200] or 'none'}"
            )
        texts = [value.decode("utf-8", "backslashreplace") for value in found.reshape(-1)]
        if contract.CONFIDENCE not in outputs:
            return texts, np.full(rows, np.nan, np.float32)
        return texts, confidence_of(outputs, rows)
