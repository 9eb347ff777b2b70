"""Sends a test set through cascades, the way a device would."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cascade.samples import Floats, Samples
from benchmarks.errors import BenchmarkError
from edge_runtime import Answer, Cascade, Source
from export.commands.build import BuildSettings
from train.data import LabelledData

TIMED_CALLS = 1000
"""Inputs that are sent one by one: more of them narrow no percentile that is printed."""
DEADLINE_S = 30.0
"""Longest wait for M_L: quality is measured, and a slow answer must not count as a wrong one."""
_BATCH = 128


class Trial:
    """One test set and one running large model.

    Args:
        test: Labelled pictures.
        address: `HOST:PORT` of the large model.
        probe: Any bundle for this model; through it every input is sent to M_L, once.
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
            return self._quality(in_batches(everything, self._inputs, expected=Source.CLOUD))

    def measure_all(
        self, bundles: Mapping[str, Mapping[int, Path]]
    ) -> tuple[dict[str, Samples], dict[str, float]]:
        """Return the samples by variant, and the bytes sent to the cloud per input.

        Args:
            bundles: Bundles by variant, then by training seed.
        """
        samples, sent_bytes = {}, {}
        for variant, seeds in bundles.items():
            runs = [self._measure(bundle, seed) for seed, bundle in seeds.items()]
            samples[variant] = Samples.joined([part for part, _ in runs])
            sent_bytes[variant] = sum(sent for _, sent in runs) / len(runs)
        return samples, sent_bytes

    def _measure(self, bundle: Path, seed: int) -> tuple[Samples, float]:
        """Return one seed's samples, and the bytes sent to the cloud per input.

        The inputs go through the cascade as it ships, at its calibrated threshold: the first ones
        one by one, which times them, the rest in batches.
        """
        with self._open(bundle, threshold=float("-inf")) as nothing:
            small = in_batches(nothing, self._inputs, expected=Source.EDGE)
        with self._open(bundle, threshold=None) as cascade:
            shipped = as_shipped(cascade, self._inputs)
            sent = cascade.request_bytes
        return self._samples(small, shipped, seed), sent / len(shipped)

    def _open(self, bundle: Path, *, threshold: float | None) -> Cascade:
        return Cascade.open(bundle, cloud=self._address, threshold=threshold, deadline_s=DEADLINE_S)

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


def export_bundle(checkpoint: Path, out: Path, *, data: str, target_deferral: float) -> Path:
    """Export a checkpoint, calibrated for a deferral ratio; return the bundle."""
    BuildSettings(
        checkpoint=checkpoint, out=out, calibrate=data, target_deferral=target_deferral
    ).run()
    return out


def as_shipped(cascade: Cascade, inputs: Any) -> list[Answer]:
    """Return an answer per input: the first ones one by one, which times them, the rest in batches.

    Args:
        cascade: The cascade.
        inputs: Pictures or texts, a slice of which is a batch.

    Raises:
        BenchmarkError: M_L did not answer a deferred input.
    """
    single = [cascade(one) for one in inputs[:TIMED_CALLS]]
    return _require(single) + [_untimed(a) for a in in_batches(cascade, inputs[TIMED_CALLS:])]


def in_batches(cascade: Cascade, inputs: Any, *, expected: Source | None = None) -> list[Answer]:
    """Return an answer per input, computed in batches.

    Args:
        cascade: The cascade.
        inputs: Pictures or texts, a slice of which is a batch.
        expected: Source that every answer must have; either side when None.

    Raises:
        BenchmarkError: M_L did not answer a deferred input, or an answer has another source.
    """
    answers: list[Answer] = []
    for first in range(0, len(inputs), _BATCH):
        answers += cascade.batch(inputs[first : first + _BATCH])
    return _require(answers, expected=expected)


def _require(answers: list[Answer], *, expected: Source | None = None) -> list[Answer]:
    wrong = [a for a in answers if a.source is Source.EDGE_FALLBACK]
    wrong += [a for a in answers if expected not in {None, a.source}]
    if wrong:
        raise BenchmarkError(f"the large model did not answer the whole test: {wrong[0].error}")
    return answers


def _untimed(answer: Answer) -> Answer:
    # The time of a batch is not the time of a call.
    nothing = answer.timings._replace(total_s=float("nan"))
    return answer._replace(timings=nothing)
