"""The interface of the small model on the device: opening it, and its results as answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Protocol

import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.answer import Answer, Source, Timings
from edge_runtime.bundle import Bundle, role_of
from edge_runtime.edge_model import EdgeModel, GateResult, no_result
from edge_runtime.errors import BundleError, ShortMemoryError
from edge_runtime.inputs.batches import InputReader
from edge_runtime.sessions import short_of_memory

_EDGE: Final = Source.EDGE  # looking a member up takes longer than making an answer
_log = logging.getLogger("edge_runtime")


class Edge(Protocol):
    """M_S with its gate: `EdgeModel` classifies, `EdgeGenerator` answers prompts."""

    bundle: Bundle
    metadata: contract.GateMetadata
    labels: tuple[str, ...]
    threshold: float
    reader: InputReader

    def run(self, rows: npt.NDArray[Any], feeds: Mapping[str, npt.NDArray[Any]]) -> GateResult:
        """Answer a batch whose feeds come from the reader."""

    def stream(self, prompt: str) -> Iterator[str | GateResult]:
        """Yield an answer piece by piece, then its result; raise a `UseError` without text."""

    def complete(self, result: GateResult, rows: npt.NDArray[Any]) -> GateResult:
        """Return M_S's complete answers to a batch; see `GateResult.unfinished`."""

    def warm_up(self) -> None:
        """Answer a blank input, so that the first real one is not slow."""


def open_edge(path: Path | str, *, threshold: float | None = None, **session: Any) -> Edge:
    """Open the small model of a bundle, a classifier or a language model.

    Args:
        path: The bundle's folder.
        threshold: Replaces the bundle's threshold.
        **session: `SessionSettings`.

    Raises:
        BundleError: The bundle is missing, damaged, or of an unknown kind or contract version.
        SettingError: A setting is out of range.
    """
    if role_of(path) == contract.ROLE_DECODER:
        from edge_runtime.language.edge_generator import EdgeGenerator

        return EdgeGenerator.open(path, threshold=threshold, **session)
    return EdgeModel.open(path, threshold=threshold, **session)


def run_edge(
    edge: Edge, rows: npt.NDArray[Any], feeds: Mapping[str, npt.NDArray[Any]] | None = None
) -> tuple[GateResult, float]:
    """Return M_S's result of a batch, and the time at which the graph began, on `perf_counter`.

    A batch for which the device has too little memory is deferred as a whole.

    Args:
        edge: M_S.
        rows: The batch.
        feeds: Its feeds where they are known; else the reader makes them.
    """
    try:
        if feeds is None:
            feeds = edge.reader.feeds(rows)
        fed = perf_counter()
        return edge.run(rows, feeds), fed
    except MemoryError as error:
        return _shortage(edge, len(rows), error), perf_counter()


def stream_edge(edge: Edge, prompt: str) -> Iterator[str | GateResult]:
    """Yield M_S's answer piece by piece, then its result, as `run_edge` does."""
    pieces = edge.stream(prompt)  # a classifier's error comes at once
    return _stream(edge, pieces)


def _stream(edge: Edge, pieces: Iterator[str | GateResult]) -> Iterator[str | GateResult]:
    try:
        yield from pieces
    except MemoryError as error:
        yield _shortage(edge, 1, error)


def _shortage(edge: Edge, rows: int, error: MemoryError) -> GateResult:
    short = error if isinstance(error, ShortMemoryError) else short_of_memory(f"{rows} inputs")
    _log.warning("%s", short)
    return no_result(rows, short.with_traceback(None), is_text=not edge.labels)


def edge_answers(edge: Edge, result: GateResult, timings: Timings, request_id: str) -> list[Answer]:
    """Return M_S's answers to a batch, or raise a `BundleError` for a class without a label."""
    threshold, source = edge.threshold, _EDGE
    confidences, flags = result.confidence.tolist(), result.defer.tolist()
    if result.texts is not None:
        reasons = result.reasons or [None] * len(flags)
        return [
            Answer(contract.NO_CLASS, text, g, d, source, timings, request_id, threshold, reason)
            for text, g, d, reason in zip(result.texts, confidences, flags, reasons, strict=True)
        ]
    labels = edge.labels
    try:
        return [
            Answer(p, labels[p], g, d, source, timings, request_id, threshold)
            for p, g, d in zip(result.prediction.tolist(), confidences, flags, strict=True)
        ]
    except IndexError:
        raise _no_label(edge, result) from None


def kept_answer(edge: Edge, result: GateResult, timings: Timings, request_id: str) -> Answer:
    """Return M_S's answer to one input that it did not defer, a class; errors as above."""
    number = result.prediction.item()
    confidence = result.confidence.item()
    try:
        label = edge.labels[number]
    except IndexError:
        raise _no_label(edge, result) from None
    return Answer(number, label, confidence, False, _EDGE, timings, request_id, edge.threshold)


def _no_label(edge: Edge, result: GateResult) -> BundleError:
    return BundleError(
        f"expected predictions below {len(edge.labels)}, the number of labels, the graph gave "
        f"{int(result.prediction.max())}: export the bundle again"
    )
