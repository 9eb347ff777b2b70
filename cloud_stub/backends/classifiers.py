"""Classifiers: an exported bundle, a checkpoint, and a middle tier that asks a further cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np

from cloud_stub.backends.backend import (
    CLASSIFIER_OUTPUTS,
    FREE,
    Batch,
    Classes,
    Column,
    Outputs,
    Signature,
    TensorSpec,
    classifier_signature,
)
from cloud_stub.backends.graph import open_session
from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.cascade import Cascade
from edge_runtime.errors import BundleError
from edge_runtime.inputs.batches import open_reader
from edge_runtime.metrics import max_softmax

_DATATYPES: Final = {"uint8": "UINT8", "float32": "FP32", "float16": "FP16"}
"""The protocol's name of each type of a graph's own input."""
_REPLY_S: Final = 0.02
"""Part of the callers' time that is reserved for sending the answer back."""


class _BundleClassifier:
    """Common part of the classifiers that are read from a bundle.

    Args:
        bundle: The bundle.
        path: Its folder.
        platform: Name of what runs it.
    """

    def __init__(self, bundle: Bundle, path: Path, platform: str) -> None:
        description = bundle.metadata.input
        self._input = description.name
        self.labels = bundle.metadata.labels
        self._classes = Classes(self.labels)
        if description.name == contract.TEXT:
            self.signature = classifier_signature("text", platform)
            return
        if description.name == contract.IMAGE:
            height, width = (s if isinstance(s, int) else None for s in description.shape[1:3])
            self.signature = classifier_signature("image", platform, image_size=(height, width))
            return
        if description.dtype not in _DATATYPES:
            raise BundleError(
                f"expected pictures, texts or {' or '.join(_DATATYPES)} as input of {path}, "
                f"it takes {description.dtype}: export it with another input"
            )
        sizes = tuple(axis if isinstance(axis, int) else FREE for axis in description.shape[1:])
        spec = TensorSpec(description.name, _DATATYPES[description.dtype], (FREE, *sizes))
        self.signature = Signature(
            takes="tensors",
            inputs=(spec,),
            outputs=CLASSIFIER_OUTPUTS,
            is_batched=True,
            platform=platform,
            is_reentrant=True,
        )

    def _by_size(
        self, inputs: Column, classify: Callable[[list[Any]], tuple[Sequence[Any], Sequence[Any]]]
    ) -> Outputs:
        """Classify inputs, those of one size together; texts all have the same size."""
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, value in enumerate(inputs):
            rows.setdefault(getattr(value, "shape", ()), []).append(row)
        prediction = np.empty(len(inputs), np.int64)
        confidence = np.empty(len(inputs), np.float32)
        for places in rows.values():
            prediction[places], confidence[places] = classify([inputs[place] for place in places])
        return self._classes.outputs(prediction, confidence)


class BundleBackend(_BundleClassifier):
    """A bundle: its graph takes pictures, texts, or a tensor of its own.

    Args:
        path: The bundle's folder.
        threads: Threads of the model; 0 leaves the choice to the library.

    Raises:
        BundleError: The folder holds no bundle, or an altered one.
    """

    workers = 1

    def __init__(self, path: Path, threads: int) -> None:
        bundle = read_bundle(path)
        super().__init__(bundle, path, "gatekeeper_bundle")
        self._session = open_session(bundle, threads)
        self._reader = open_reader(bundle, self._session.get_inputs())

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Classify pictures, texts or rows of a tensor."""
        inputs = batch.inputs[self._input]
        if isinstance(inputs, np.ndarray):
            yield self._classes.outputs(*self._run(inputs))
        else:
            yield self._by_size(inputs, lambda values: self._run(self._reader.batch(values)))

    def close(self) -> None:
        """Do nothing: the session ends with the process."""

    def _run(self, rows: Any) -> Any:
        feeds = self._reader.feeds(rows)
        prediction, confidence = self._session.run(
            [contract.PREDICTION, contract.CONFIDENCE], feeds
        )
        unusable = self._reader.unusable(rows)
        if unusable is not None:  # the graph may swallow a NaN
            confidence = np.where(unusable, np.float32(np.nan), confidence)
        return prediction, confidence


class CascadeBackend(_BundleClassifier):
    """A middle tier: a bundle that answers what it is sure of; a further cloud answers the rest.

    If the further cloud fails, the bundle's own answer stands. The confidence is always the
    bundle's.

    Args:
        path: The bundle's folder.
        threads: Threads of one run of the bundle's graph; 0 leaves the choice to the library.
        cloud: Address of the further cloud.
        deadline_s: Longest wait for it; shorter if the callers have less time.
        **options: Further arguments of `Cascade.open`.

    Raises:
        GatekeeperError: Bundle, address or protection do not fit.
    """

    workers = 4  # the calls wait for the network more than they compute

    def __init__(
        self, path: Path, threads: int, *, cloud: str, deadline_s: float, **options: Any
    ) -> None:
        super().__init__(read_bundle(path), path, "gatekeeper_cascade")
        self._deadline_s = deadline_s
        self.cascade = Cascade.open(
            path, cloud=cloud, threads=threads or None, deadline_s=deadline_s, **options
        )

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Classify pictures or texts; only what the bundle is unsure of is forwarded."""
        left_s = batch.timeout_s - _REPLY_S
        limit_s = min(self._deadline_s, left_s) if isfinite(left_s) else self._deadline_s

        def classify(values: list[Any]) -> tuple[list[int], list[float]]:
            answers = self.cascade.batch(values, deadline_s=max(limit_s, _REPLY_S))
            return [one.prediction for one in answers], [one.confidence for one in answers]

        yield self._by_size(batch.inputs[self._input], classify)

    def close(self) -> None:
        """Close the connection to the further cloud."""
        self.cascade.close()


class CheckpointBackend:
    """A checkpoint; its own processor resizes, so pictures may have any size.

    The confidence is the max softmax (paper eq. 6) of M_L.

    Args:
        path: The checkpoint's folder.
        threads: Threads of the model; 0 leaves the choice to the library.

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
        """Classify pictures or texts."""
        inputs: Any = batch.inputs[self._input]
        logits = self._checkpoint.predict(list(inputs))
        confidence = np.asarray(max_softmax(logits), np.float32)
        yield self._classes.outputs(np.argmax(logits, axis=1), confidence)

    def close(self) -> None:
        """Do nothing: the model ends with the process."""
