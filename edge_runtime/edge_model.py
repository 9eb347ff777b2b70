"""The small model on the device: an ONNX Runtime session checked against the gate contract."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.errors import BundleError, InputError, ShortMemoryError, UseError, lacks_memory
from edge_runtime.files import one_line
from edge_runtime.inputs.batches import blank_input, describe_rows, open_reader
from edge_runtime.sessions import (
    REASON_LENGTH,
    SessionSettings,
    open_session,
    quick_run,
    require_threshold,
    short_of_memory,
    threshold_feed,
)

_OUTPUT_TYPES = {
    contract.PREDICTION: "tensor(int64)",
    contract.CONFIDENCE: "tensor(float)",
    contract.DEFER: "tensor(bool)",
}


class GateResult(NamedTuple):
    """Answers, confidences and decisions of a gated graph on a batch.

    Attributes:
        prediction: int64 [batch], class index.
        confidence: float32 [batch], higher is surer.
        defer: bool [batch], True where M_L should answer.
        texts: Answers of a language model, [batch]; None for a classifier.
        unfinished: bool [batch], True for texts that end early because their deferral was certain.
        reasons: Why a prompt was not answered, None where it was, [batch]; None for a classifier.
        short: The lack of memory for which there are no answers at all, else None.
    """

    prediction: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    defer: npt.NDArray[np.bool_]
    texts: list[str] | None = None
    unfinished: npt.NDArray[np.bool_] | None = None
    reasons: list[str | None] | None = None
    short: ShortMemoryError | None = None


def no_result(rows: int, short: ShortMemoryError, *, is_text: bool) -> GateResult:
    """Return the result of a batch that M_S did not work on: all of it is deferred."""
    return GateResult(
        np.full(rows, contract.NO_CLASS, np.int64),
        np.full(rows, np.nan, np.float32),
        np.ones(rows, np.bool_),
        [""] * rows if is_text else None,
        short=short,
    )


class EdgeModel:
    """M_S with its gate, ready to run.

    Args:
        bundle: A checked bundle.
        threshold: Replaces the bundle's threshold; any float, infinities included, but not NaN.
        session: Settings of the ONNX Runtime session.

    Attributes:
        reader: Turns the caller's inputs into batches.

    Raises:
        BundleError: The graph does not load, or does not follow the contract.
        DependencyError: The bundle takes texts, and `tokenizers` is not installed.
        SettingError: A setting is out of range, or a provider is not available here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threshold: float | None = None,
        session: SessionSettings | None = None,
    ) -> None:
        self.bundle = dataclasses.replace(bundle, content=b"")
        self.metadata = bundle.metadata
        self.labels = bundle.metadata.labels
        self.session = open_session(bundle, session or SessionSettings())
        self.reader = open_reader(bundle, self.session.get_inputs())
        _check_contract(self.session, bundle)
        self._run = quick_run(self.session)
        self._feeds: dict[str, Any] = {}
        self.threshold = self.metadata.threshold
        if threshold is not None:
            feed = threshold_feed(threshold)
            self._feeds[contract.THRESHOLD] = feed
            self.threshold = float(feed)

    @classmethod
    def open(cls, path: Path | str, *, threshold: float | None = None, **session: Any) -> EdgeModel:
        """Check the bundle at `path` and load its graph.

        Args:
            path: The bundle's folder.
            threshold: Replaces the bundle's threshold, as in the class, which lists the errors.
            **session: `SessionSettings`, e.g. `threads=1`.
        """
        return cls(read_bundle(path), threshold=threshold, session=SessionSettings(**session))

    def __call__(self, rows: npt.NDArray[Any]) -> GateResult:
        """Run a batch.

        Args:
            rows: The graph's input, e.g. uint8 [batch, height, width, 3], or an object array
                [batch] of texts; batch >= 1. Rows of a float input that hold NaN or infinite
                values are deferred, with confidence NaN.

        Raises:
            InputError: Type, rank or size differ from the graph's input.
            ShortMemoryError: This device has too little memory for the batch.
        """
        return self.run(rows, self.reader.feeds(rows))

    def run(self, rows: npt.NDArray[Any], feeds: Mapping[str, npt.NDArray[Any]]) -> GateResult:
        """Run a batch, as `__call__` does, whose feeds come from the reader."""
        try:
            result = GateResult(*self._run(contract.GATE_OUTPUTS, {**feeds, **self._feeds}, None))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            if lacks_memory(error):
                raise short_of_memory(describe_rows(rows)) from None
            raise InputError(
                f"expected {self.reader.description} that the graph can work on, it failed on "
                f"{describe_rows(rows)} ({one_line(error, REASON_LENGTH)}): try an input of "
                "another size"
            ) from None
        unusable = self.reader.unusable(rows)
        return result if unusable is None else _defer_rows(result, unusable)

    def stream(self, prompt: str) -> Iterator[str | GateResult]:  # noqa: ARG002 - see `Edge`
        """Raise a `UseError`: a classifier generates no text."""
        raise UseError(
            "expected a language model's bundle to stream, this one is of a classifier: call the "
            "cascade instead"
        )

    def complete(self, result: GateResult, rows: npt.NDArray[Any]) -> GateResult:  # noqa: ARG002 - see `Edge`
        """Return the same result: a classifier's answers are always complete."""
        return result

    def warm_up(self) -> None:
        """Run a blank input, so that ONNX Runtime makes its plans before the first real one."""
        # A graph with free axes may need another size than this one: then the first call is slow.
        with contextlib.suppress(InputError, ShortMemoryError):
            self(self.reader.single(blank_input(self.metadata.input)))


def _defer_rows(result: GateResult, rows: npt.NDArray[np.bool_]) -> GateResult:
    """Defer some rows with confidence NaN, whatever the graph decided."""
    confidence = np.where(rows, np.float32(np.nan), result.confidence)
    return GateResult(result.prediction, confidence, result.defer | rows)


def _check_contract(session: Any, bundle: Bundle) -> None:
    """Check the graph's outputs and threshold; the reader has checked its inputs."""
    types = {node.name: node.type for node in session.get_outputs()}
    for name, kind in _OUTPUT_TYPES.items():
        if types.get(name) != kind:
            raise BundleError(
                f"expected the output {name!r} {kind} in {bundle.graph}, got {types.get(name)}: "
                "export the bundle again"
            )
    require_threshold(session, bundle.graph)
