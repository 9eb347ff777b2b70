"""Sends a test set through a cascade, the way a device would."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.samples import Floats, Samples
from edge_runtime import Answer, Cascade, Source
from train.data import LabelledData

_BATCH = 128
_TIMED_CALLS = 1000  # more of them narrow no percentile that is printed
_DEADLINE_S = 30.0  # quality is measured here: a slow M_L must not count as a wrong one


class Trial:
    """One test set against one running large model.

    Args:
        test: Labelled pictures.
        address: `host:port` of the large model.
        probe: Any bundle for this model; through it M_L is asked about every input, once.
    """

    def __init__(self, test: LabelledData, address: str, probe: Path) -> None:
        self._inputs = test.inputs[:]
        self._ids = test.ids
        self._address = address
        self._probe = probe
        self._labels = np.array([test.label_names[i] for i in test.labels])

    @cached_property
    def large_quality(self) -> Floats:
        """1 where M_L is right, [n, 1]; M_L is the same for every bundle."""
        with self._open(self._probe, threshold=float("inf")) as everything:
            return self._quality(self._batches(everything, expected=Source.CLOUD))

    def measure(self, bundle: Path, seed: int) -> tuple[Samples, float]:
        """Return the per-sample rows, and the bytes sent to the cloud an input.

        The inputs go through the cascade as it ships, at its calibrated threshold: the first ones
        one by one, which times them, the rest in batches.

        Args:
            bundle: The small model.
            seed: Its training seed, for the per-sample file.
        """
        with self._open(bundle, threshold=float("-inf")) as nothing:
            small = self._batches(nothing, expected=Source.EDGE)
        with self._open(bundle, threshold=None) as cascade:
            shipped = [cascade(image) for image in self._inputs[:_TIMED_CALLS]]
            shipped += [_untimed(a) for a in self._batches(cascade, start=_TIMED_CALLS)]
            sent = cascade.sent_bytes
        return self._samples(small, shipped, seed), sent / len(shipped)

    def _open(self, bundle: Path, *, threshold: float | None) -> Cascade:
        return Cascade.open(
            bundle, cloud=self._address, threshold=threshold, deadline_s=_DEADLINE_S
        )

    def _batches(
        self, cascade: Cascade, *, start: int = 0, expected: Source | None = None
    ) -> list[Answer]:
        answers: list[Answer] = []
        for first in range(start, len(self._inputs), _BATCH):
            answers += cascade.batch(self._inputs[first : first + _BATCH])
        wrong = [a for a in answers if a.source is Source.EDGE_FALLBACK]
        wrong += [a for a in answers if expected not in {None, a.source}]
        if wrong:
            raise BenchmarkError(
                f"the large model did not answer all of the test: {wrong[0].error}"
            )
        return answers

    def _quality(self, answers: list[Answer]) -> Any:
        return (np.array([a.label for a in answers]) == self._labels).astype(float)[:, None]

    def _samples(self, small: list[Answer], shipped: list[Answer], seed: int) -> Samples:
        return Samples(
            ids=tuple(self._ids),
            seeds=(seed,),
            confidence=np.array([[a.confidence] for a in small], dtype=float),
            small_quality=self._quality(small),
            large_quality=self.large_quality,
            deferred=np.array([[float(a.deferred)] for a in shipped]),
            answer_quality=self._quality(shipped),
            source=np.array([[str(a.source)] for a in shipped]),
            total_ms=np.array([[round(a.timings.total_s * 1e3, 4)] for a in shipped]),
        )


def _untimed(answer: Answer) -> Answer:
    # The time of a batch is not the time of a call.
    nothing = answer.timings._replace(total_s=float("nan"))
    return answer._replace(timings=nothing)
