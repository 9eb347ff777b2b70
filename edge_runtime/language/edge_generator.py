"""A decoder as the small model of a cascade: prompts in, gated answers out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.edge_model import Gated
from edge_runtime.inputs import Intake
from edge_runtime.language.decoder import Decoder
from edge_runtime.language.generation import Generation
from edge_runtime.texts import text_rows


class EdgeGenerator:
    """M_S that answers prompts; see `edge_runtime.edge.Edge`.

    Args:
        decoder: The decoder.
    """

    labels: tuple[str, ...] = ()
    """There are no classes: what it says is text."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.bundle = decoder.bundle
        self.metadata = decoder.metadata
        self.threshold = decoder.threshold
        self.intake: Intake = PromptIntake()

    @classmethod
    def open(
        cls, path: Path | str, *, threshold: float | None = None, **session: Any
    ) -> EdgeGenerator:
        """Open the decoder of a bundle; see `Decoder.open`."""
        return cls(Decoder.open(path, threshold=threshold, **session))

    def run(self, rows: npt.NDArray[Any], feeds: Mapping[str, npt.NDArray[Any]]) -> Gated:  # noqa: ARG002 - prompts are tokenized where they are decoded
        """Answer a batch of prompts; one that cannot be answered has the confidence NaN."""
        return _gated(self.decoder.generate(rows.tolist()))

    def stream(self, prompt: str) -> Iterator[str | Gated]:
        """Yield the answer to a prompt piece by piece, and at last what the gate says of it."""
        for said in self.decoder.stream(prompt):
            yield _gated([said]) if isinstance(said, Generation) else said

    def finished(self, gated: Gated, rows: npt.NDArray[Any]) -> Gated:
        """Generate again, and whole, what ended early: nobody else answers it now."""
        if gated.texts is None or gated.unfinished is None or not gated.unfinished.any():
            return gated
        asked = np.flatnonzero(gated.unfinished)
        whole = _gated(self.decoder.generate(rows[asked].tolist(), stop_when_certain=False))
        texts, confidence = list(gated.texts), gated.confidence.copy()
        for place, row in enumerate(asked.tolist()):
            texts[row] = (whole.texts or [])[place]
        confidence[asked] = whole.confidence
        return gated._replace(texts=texts, confidence=confidence, unfinished=None)

    def warm_up(self) -> None:
        """Answer a prompt with one token."""
        self.decoder.generate(["a text"], 1)


def _gated(answers: list[Generation]) -> Gated:
    return Gated(
        prediction=np.full(len(answers), contract.NO_CLASS, np.int64),
        confidence=np.array([answer.confidence for answer in answers], np.float32),
        defer=np.array([answer.defer for answer in answers], np.bool_),
        texts=[answer.text for answer in answers],
        unfinished=np.array([answer.ended == "certain" for answer in answers], np.bool_),
        reasons=[answer.reason for answer in answers],
    )


class PromptIntake:
    """Takes prompts; see `edge_runtime.inputs.Intake`."""

    wanted = "prompts"

    def one(self, given: Any) -> npt.NDArray[Any]:
        """Return a single prompt as a batch of one row."""
        return self.rows([given])

    def rows(self, given: Any) -> npt.NDArray[Any]:
        """Return prompts as an object array [n].

        Raises:
            InputError: They are no texts.
        """
        return text_rows(given)

    def feeds(self, rows: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:  # noqa: ARG002 - the protocol's
        """Return nothing: the decoder feeds its graph step by step."""
        return {}

    def unusable(self, rows: npt.NDArray[Any]) -> None:  # noqa: ARG002 - the protocol's
        """Return None: the decoder refuses prompts itself."""
        return
