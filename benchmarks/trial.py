"""Sends a test set through a cascade, the way a device would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.samples import Samples
from edge_runtime import Answer, Cascade, Source
from train.data import LabelledData

_BATCH = 128
_DEADLINE_S = 30.0  # quality is measured here: a slow M_L must not count as a wrong one


class Trial:
    """One test set against one running large model.

    Args:
        test: Labelled pictures.
        address: `host:port` of the large model.
        seed: The training seed, for the per-sample file.
    """

    def __init__(self, test: LabelledData, address: str, seed: int) -> None:
        self._test = test
        self._address = address
        self._seed = seed
        self._labels = np.array([test.label_names[i] for i in test.labels])

    def measure(self, bundle: Path) -> tuple[Samples, float]:
        """Return the per-sample rows, and the bytes sent to the cloud an input.

        First everything is deferred, to learn M_L's answer to every input; then the inputs go one
        by one through the cascade as it ships, at its calibrated threshold.
        """
        with self._open(bundle, threshold=float("inf")) as everything:
            large = self._quality(self._batches(everything, Source.CLOUD))
        with self._open(bundle, threshold=float("-inf")) as nothing:
            small = self._batches(nothing, Source.EDGE)
        with self._open(bundle, threshold=None) as cascade:
            shipped = [cascade(image) for image in self._test.inputs]
            sent = cascade.sent_bytes
        return self._samples(small, shipped, large), sent / len(shipped)

    def _open(self, bundle: Path, *, threshold: float | None) -> Cascade:
        return Cascade.open(
            bundle, cloud=self._address, threshold=threshold, deadline_s=_DEADLINE_S
        )

    def _batches(self, cascade: Cascade, expected: Source) -> list[Answer]:
        images = self._test.inputs
        answers: list[Answer] = []
        for start in range(0, len(images), _BATCH):
            answers += cascade.batch([images[i] for i in _window(start, len(images))])
        failed = next((a for a in answers if a.source is not expected), None)
        if failed is not None:
            raise BenchmarkError(f"the large model did not answer all of the test: {failed.error}")
        return answers

    def _quality(self, answers: list[Answer]) -> Any:
        return (np.array([a.label for a in answers]) == self._labels).astype(float)[:, None]

    def _samples(self, small: list[Answer], shipped: list[Answer], large: Any) -> Samples:
        return Samples(
            ids=tuple(self._test.ids),
            seeds=(self._seed,),
            confidence=np.array([[a.confidence] for a in small], dtype=float),
            small_quality=self._quality(small),
            large_quality=large,
            deferred=np.array([[float(a.deferred)] for a in shipped]),
            answer_quality=self._quality(shipped),
            source=np.array([[str(a.source)] for a in shipped]),
            total_ms=np.array([[a.timings.total_s * 1e3] for a in shipped]),
        )


def _window(start: int, total: int) -> range:
    return range(start, min(start + _BATCH, total))
