"""An exported bundle: a classifier's graph with fused preprocessing, or with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
from cloud_stub.backends.session import open_session
from edge_runtime import contract
from edge_runtime.bundle import Bundle, read_bundle
from edge_runtime.errors import BundleError
from edge_runtime.intake import open_intake


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
        self._intake = open_intake(bundle, self._session.get_inputs())

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Answer pictures or texts; pictures of one size go through the graph together."""
        given = batch.inputs[self._input]
        if isinstance(given, np.ndarray):
            yield self._classes.outputs(*self._run(given))
            return
        prediction = np.empty(batch.rows, np.int64)
        confidence = np.empty(batch.rows, np.float32)
        for rows in rows_by_size(given):
            stacked = self._intake.rows([given[row] for row in rows])
            prediction[rows], confidence[rows] = self._run(stacked)
        yield self._classes.outputs(prediction, confidence)

    def close(self) -> None:
        """Nothing is held that the process would not let go of."""

    def _run(self, rows: Any) -> Any:
        return self._session.run(
            [contract.PREDICTION, contract.CONFIDENCE], self._intake.feeds(rows)
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
