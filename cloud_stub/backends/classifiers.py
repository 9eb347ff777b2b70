"""An exported bundle: a classifier's graph with fused preprocessing, or with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from cloud_stub.backends.backend import (
    Batch,
    Classes,
    Outputs,
    Signature,
    classifier_signature,
)
from edge_runtime import contract

# MERGEDOC cloud_stub/backends/checkpoint.py: 'A checkpoint, run by the library that it was trained with.'
# MERGEDOC cloud_stub/backends/cascade.py: 'A middle tier: a bundle that answers what it is sure of and asks an onward cloud for the rest.'
# MERGEDOC cloud_stub/backends/session.py: "ONNX Runtime's session, as a server opens it."
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.cascade import Cascade
from edge_runtime.errors import BundleError, DependencyError
from edge_runtime.inputs import open_reader

_WORKERS = 4
_KEPT_FOR_REPLY_S = 0.02
"""Of the callers' time: the answer has to travel back."""
_FATAL_ONLY = 4


class BundleBackend:
    """A bundle whose graph takes uint8 images or texts.

    Args:
        path: The bundle's folder.
        threads: Threads of the model; 0 leaves it to the library.

    Raises:
        BundleError: The folder holds no bundle, an altered one, or one whose graph takes neither
            uint8 images nor texts.
    """

    workers = 1

    def __init__(self, path: Path, threads: int) -> None:
        bundle = read_bundle(path)
        self._input = bundle.metadata.input.name
        self.signature = signature_of(bundle, path, "gatekeeper_bundle")
        self.labels = bundle.metadata.labels
        self._classes = Classes(self.labels)
        self._session = open_session(bundle.graph, threads)
        self._reader = open_reader(bundle, self._session.get_inputs())

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Answer pictures or texts; pictures of one size go through the graph together."""
        given = batch.inputs[self._input]
        if isinstance(given, np.ndarray):
            yield self._classes.outputs(*self._run(given))
            return
        prediction = np.empty(batch.rows, np.int64)
        confidence = np.empty(batch.rows, np.float32)
        for rows in rows_by_size(given):
            stacked = self._reader.batch([given[row] for row in rows])
            prediction[rows], confidence[rows] = self._run(stacked)
        yield self._classes.outputs(prediction, confidence)

    def close(self) -> None:
        """Nothing is held that the process would not let go of."""

    def _run(self, rows: Any) -> Any:
        return self._session.run(
            [contract.PREDICTION, contract.CONFIDENCE], self._reader.feeds(rows)
        )


def signature_of(bundle: Bundle, path: Path, platform: str) -> Signature:
    """Return what a bundle takes and gives on the wire.

    Raises:
        BundleError: Its graph takes neither uint8 images nor texts.
    """
    described = bundle.metadata.input
    if described.name == contract.TEXT:
        return classifier_signature("text", platform)
    if described.dtype != "uint8" or len(described.shape) != 4:  # noqa: PLR2004 - n, h, w, 3
        raise BundleError(
            f"expected a graph that takes uint8 [batch, height, width, 3], {path} takes "
            f"{described.dtype} {list(described.shape)}: export it with fused preprocessing"
        )
    height, width = (side if isinstance(side, int) else None for side in described.shape[1:3])
    return classifier_signature("image", platform, image_size=(height, width))


def rows_by_size(given: Iterable[Any]) -> list[list[int]]:
    """Return the places of inputs that can go through a graph together."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, one in enumerate(given):
        rows.setdefault(getattr(one, "shape", ()), []).append(row)
    return list(rows.values())


class CheckpointBackend:
    """A checkpoint; its own processor resizes, so that pictures may have any size.

    The confidence is the max softmax (paper eq. 6) of M_L.

    Args:
        path: The checkpoint's folder.
        threads: Threads of the model; 0 leaves it to the library.

    Raises:
        GatekeeperError: The folder holds no checkpoint that can be opened.
    """

    workers = 1

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        from train.models import open_checkpoint

        if threads:
            torch.set_num_threads(threads)
        self._checkpoint = open_checkpoint(path, kind=None)
        is_text = self._checkpoint.kind == contract.TEXT
        self._input = contract.TEXT if is_text else contract.IMAGE
        self.signature = classifier_signature(
            "text" if is_text else "image", "gatekeeper_checkpoint"
        )
        self.labels: tuple[str, ...] = tuple(self._checkpoint.labels)
        self._classes = Classes(self.labels)

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Answer pictures or texts; see `Backend.infer`."""
        from edge_runtime.metrics import max_softmax

        given: Any = batch.inputs[self._input]
        logits = self._checkpoint.predict(list(given))
        confidence = np.asarray(max_softmax(logits), np.float32)
        yield self._classes.outputs(np.argmax(logits, axis=1), confidence)

    def close(self) -> None:
        """Nothing is held that the process would not let go of."""


class CascadeBackend:
    """A cascade; where the onward cloud fails, its own answer stands, with its low confidence.

    Args:
        path: The bundle's folder.
        threads: Threads of one run of the bundle's graph; 0 leaves it to the library.
        cloud: Address of the onward cloud.
        deadline_s: Longest wait for it; less where the callers have less time.
        **options: Passed to `Cascade.open`.

    Raises:
        GatekeeperError: Bundle, address or protection do not fit.
    """

    # The calls wait for the network more than they compute.
    workers = _WORKERS

    def __init__(
        self, path: Path, threads: int, *, cloud: str, deadline_s: float, **options: Any
    ) -> None:
        bundle = read_bundle(path)
        self._input = bundle.metadata.input.name
        self._deadline_s = deadline_s
        self.signature = signature_of(bundle, path, "gatekeeper_cascade")
        self.labels = bundle.metadata.labels
        self._classes = Classes(self.labels)
        self.cascade = Cascade.open(
            path, cloud=cloud, threads=threads or None, deadline_s=deadline_s, **options
        )

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Answer pictures or texts; only what the bundle is unsure of travels on."""
        given = batch.inputs[self._input]
        left_s = batch.timeout_s - _KEPT_FOR_REPLY_S
        limit_s = min(self._deadline_s, left_s) if isfinite(left_s) else self._deadline_s
        prediction = np.empty(batch.rows, np.int64)
        confidence = np.empty(batch.rows, np.float32)
        for rows in rows_by_size(given):
            answers = self.cascade.batch(
                [given[row] for row in rows], deadline_s=max(limit_s, _KEPT_FOR_REPLY_S)
            )
            prediction[rows] = [answer.prediction for answer in answers]
            confidence[rows] = [answer.confidence for answer in answers]
        yield self._classes.outputs(prediction, confidence)

    def close(self) -> None:
        """Close the way to the onward cloud."""
        self.cascade.close()


def open_session(graph: Path, threads: int) -> Any:
    """Open a graph on the best device there is.

    Args:
        graph: An ONNX file.
        threads: Threads of one run; 0 leaves it to ONNX Runtime.

    Raises:
        BundleError: It cannot be opened.
        DependencyError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError("onnxruntime", "serving an ONNX graph", "cpu") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Warnings about the threshold, an initializer that may be fed, are expected; errors are raised
    # as well, and written past all logging, with what of the input did not fit.
    options.log_severity_level = _FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # noqa: BLE001 - onnxruntime has a class for every failure
        reason = " ".join(str(error).split())
        raise BundleError(f"{graph} cannot be opened: {reason}") from None
