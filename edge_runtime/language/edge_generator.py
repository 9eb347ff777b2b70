"""A decoder as the small model of a cascade."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.edge_model import GateResult
from edge_runtime.inputs.batches import InputReader
from edge_runtime.inputs.texts import PromptReader
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.generation import Generation


class EdgeGenerator:
    """M_S as a language model that answers prompts; an `Edge`.

    Args:
        decoder: The language model.
        cancel: Event that ends its generations, as in `Decoder.generate`.
    """

    labels: tuple[str, ...] = ()
    """Empty: the answers are texts, not classes."""

    def __init__(self, decoder: Decoder, cancel: Event | None = None) -> None:
        self.decoder = decoder
        self._cancel = cancel
        self.bundle = decoder.bundle
        self.metadata = decoder.metadata
        self.threshold = decoder.threshold
        self.reader: InputReader = PromptReader()

    @classmethod
    def open(
        cls, path: Path | str, *, threshold: float | None = None, **session: Any
    ) -> EdgeGenerator:
        """Open the decoder of a bundle; see `Decoder.open`."""
        return cls(Decoder.open(path, threshold=threshold, **session))

    def run(self, rows: npt.NDArray[Any], feeds: Mapping[str, npt.NDArray[Any]]) -> GateResult:  # noqa: ARG002 - see `Edge`
        """Answer a batch of prompts; one that cannot be answered has the confidence NaN."""
        return _gate_result(self.decoder.generate(rows.tolist(), cancel=self._cancel))

    def stream(self, prompt: str) -> Iterator[str | GateResult]:
        """Yield the answer to a prompt piece by piece, then the gate's result."""
        for piece in self.decoder.stream(prompt, cancel=self._cancel):
            yield _gate_result([piece]) if isinstance(piece, Generation) else piece

    def complete(self, result: GateResult, rows: npt.NDArray[Any]) -> GateResult:
        """Generate again, to the end, the texts that ended early: M_L does not answer them now."""
        if result.texts is None or result.unfinished is None or not result.unfinished.any():
            return result
        places = np.flatnonzero(result.unfinished)
        generations = self.decoder.generate(
            rows[places].tolist(), stop_when_certain=False, cancel=self._cancel
        )
        texts, confidence = list(result.texts), result.confidence.copy()
        for place, generation in zip(places.tolist(), generations, strict=True):
            texts[place], confidence[place] = generation.text, generation.confidence
        return result._replace(texts=texts, confidence=confidence, unfinished=None)

    def warm_up(self) -> None:
        """Generate one token, so that the first real prompt is not slow."""
        self.decoder.generate(["a text"], 1)


def _gate_result(generations: list[Generation]) -> GateResult:
    return GateResult(
        prediction=np.full(len(generations), contract.NO_CLASS, np.int64),
        confidence=np.array([one.confidence for one in generations], np.float32),
        defer=np.array([one.defer for one in generations], np.bool_),
        texts=[one.text for one in generations],
        unfinished=np.array([one.ended == "certain" for one in generations], np.bool_),
        reasons=[one.reason for one in generations],
    )
