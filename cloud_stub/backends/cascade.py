"""A middle tier: a bundle that answers what it is sure of and asks an onward cloud for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from cloud_stub.backends.backend import Batch, Classes, Outputs
from cloud_stub.backends.bundle import rows_by_size, signature_of
from edge_runtime.bundle import read_bundle
from edge_runtime.cascade import Cascade

_WORKERS = 4
_KEPT_FOR_REPLY_S = 0.02
"""Of the callers' time: the answer has to travel back."""


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
