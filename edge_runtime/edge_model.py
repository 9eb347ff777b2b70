"""The small model on the device: an ONNX Runtime session that is held to the gate contract."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.errors import BundleError, InputError, SettingError, UseError
from edge_runtime.inputs import blank_input, kind_of, open_intake
from edge_runtime.sessions import SessionSettings, open_session, reason_of

_OUTPUT_TYPES = {
    contract.PREDICTION: "tensor(int64)",
    contract.CONFIDENCE: "tensor(float)",
    contract.DEFER: "tensor(bool)",
}


class Gated(NamedTuple):
    """What the gated graph says of a batch.

    Attributes:
        prediction: int64 [batch], class index.
        confidence: float32 [batch], higher is surer.
        defer: bool [batch], True where M_L should answer.
        texts: What a language model says, [batch]; None of a classifier.
        unfinished: Which of the texts end early because their deferral was certain, bool [batch].
        reasons: Why a prompt was not answered, None where it was, [batch]; None of a classifier.
    """

    prediction: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    defer: npt.NDArray[np.bool_]
    texts: list[str] | None = None
    unfinished: npt.NDArray[np.bool_] | None = None
    reasons: list[str | None] | None = None


class EdgeModel:
    """M_S with its gate, ready to run.

    Args:
        bundle: A checked bundle.
        threshold: Overrides the baked threshold; any float, infinities included, but not NaN.
        session: How ONNX Runtime runs the graph.

    Attributes:
        intake: Makes batches of the caller's inputs.

    Raises:
        BundleError: The graph does not load, or does not follow the contract.
        DependencyError: The bundle takes texts, and `tokenizers` is not installed.
        SettingError: A setting is out of range, or a provider is not to be had here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threshold: float | None = None,
        session: SessionSettings | None = None,
    ) -> None:
        self.bundle = bundle
        self.metadata = bundle.metadata
        self.labels = bundle.metadata.labels
        self.session = open_session(bundle.graph, session or SessionSettings())
        self.intake = open_intake(bundle, self.session.get_inputs())
        _check_contract(self.session, bundle)
        self._feeds: dict[str, Any] = {}
        self.threshold = self.metadata.threshold
        if threshold is not None:
            self._feed_threshold(threshold)

    @classmethod
    def open(cls, path: Path | str, *, threshold: float | None = None, **session: Any) -> EdgeModel:
        """Check the bundle at `path` and load its graph.

        Args:
            path: The bundle's folder.
            threshold: See the class, also for the errors.
            **session: `SessionSettings`, e.g. `threads=1`.
        """
        return cls(read_bundle(path), threshold=threshold, session=SessionSettings(**session))

    def __call__(self, rows: npt.NDArray[Any]) -> Gated:
        """Run a batch.

        Args:
            rows: The graph's input, e.g. uint8 [batch, height, width, 3], or an object array
                [batch] of texts; batch >= 1. Rows of a float input that hold NaN or infinite
                values are deferred, with confidence NaN.

        Raises:
            InputError: Type, rank or size differ from what the graph takes.
        """
        return self.run(rows, self.intake.feeds(rows))

    def run(self, rows: npt.NDArray[Any], feeds: Mapping[str, npt.NDArray[Any]]) -> Gated:
        """Run a batch that the intake has made feeds of; see `__call__`."""
        try:
            gated = Gated(*self.session.run(contract.GATE_OUTPUTS, {**feeds, **self._feeds}))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            raise InputError(
                f"expected {self.intake.wanted} that the graph can work on, it failed on "
                f"{kind_of(rows)} ({reason_of(error)}): try an input of another size"
            ) from None
        unusable = self.intake.unusable(rows)
        return gated if unusable is None else _deferred(gated, unusable)

    def stream(self, prompt: str) -> Iterator[str | Gated]:  # noqa: ARG002 - see `Edge`
        """Refuse: a classifier gives no text.

        Raises:
            UseError: Always.
        """
        raise UseError(
            "expected a language model's bundle to stream, this one is of a classifier: call the "
            "cascade instead"
        )

    def finished(self, gated: Gated, rows: npt.NDArray[Any]) -> Gated:  # noqa: ARG002 - see `Edge`
        """Return what was said: a classifier leaves nothing unfinished."""
        return gated

    def warm_up(self) -> None:
        """Run a blank input, so that the first real one does not wait for ONNX Runtime's plans."""
        # A graph with free axes may want another size than this one: then the first call is slow.
        with contextlib.suppress(InputError):
            self(self.intake.one(blank_input(self.metadata.input)))

    def _feed_threshold(self, threshold: float) -> None:
        if np.isnan(threshold):
            raise SettingError("expected a number as threshold, got NaN: it would defer everything")
        # ONNX Runtime takes a zero-dimensional array here and nothing else.
        self._feeds = {contract.THRESHOLD: np.array(threshold, np.float32)}
        self.threshold = float(np.float32(threshold))


def _deferred(gated: Gated, rows: npt.NDArray[np.bool_]) -> Gated:
    """Defer some rows, whatever the graph says."""
    confidence = np.where(rows, np.float32(np.nan), gated.confidence)
    return Gated(gated.prediction, confidence, gated.defer | rows)


def _check_contract(session: Any, bundle: Bundle) -> None:
    """Hold the graph's outputs and threshold to the contract; the intake holds its inputs."""
    types = {node.name: node.type for node in session.get_outputs()}
    for name, kind in _OUTPUT_TYPES.items():
        if types.get(name) != kind:
            raise BundleError(
                f"expected the output {name!r} {kind} in {bundle.graph}, got {types.get(name)}: "
                "export the bundle again"
            )
    fed = {node.name for node in session.get_overridable_initializers()}
    if contract.THRESHOLD not in fed:
        raise BundleError(
            f"expected an initializer {contract.THRESHOLD!r} that can be fed in {bundle.graph}, "
            "got none: export the bundle again"
        )
