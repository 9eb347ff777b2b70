"""The cascade: M_S answers what it is sure of, M_L the rest, M_S again when M_L is out of reach."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.answer import Answer, Source, Timings
from edge_runtime.errors import BundleError, CloudError, SettingError
from edge_runtime.model import EdgeModel, Gated
from edge_runtime.providers import CPU, Provider

if TYPE_CHECKING:
    # gRPC and protobuf cost time and 30 MB: a device that never asks the cloud does not load them.
    from edge_runtime.cloud.answers import CloudAnswers
    from edge_runtime.cloud.model import CloudModel
    from edge_runtime.recorder import Recorder

Forward = Literal["original", "model_input"]
_NO_CLOUD = "no cloud address was given"
_NO_NUMBER = (
    "the confidence is not a number: the input holds NaN or infinite values, or the model is broken"
)


class Cascade:
    """A small model on the device backed by a large one in the cloud.

    Args:
        edge: The small model.
        cloud: The large model, or None: every deferred input is then an `EDGE_FALLBACK`.
        recorder: Keeps the deferred inputs that M_L answered; None keeps nothing.
    """

    def __init__(
        self,
        edge: EdgeModel,
        cloud: CloudModel | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.edge = edge
        self.cloud = cloud
        self.recorder = recorder
        self.sent_bytes = 0
        """Size of all answered requests to the cloud."""

    @classmethod
    def open(
        cls,
        bundle: Path | str,
        *,
        cloud: str | None = None,
        model: str = contract.DEFAULT_MODEL,
        deadline_s: float = 0.5,
        threshold: float | None = None,
        threads: int | None = None,
        providers: Sequence[Provider] = (CPU,),
        forward: Forward = "original",
        record: Recorder | None = None,
        **cloud_options: Any,
    ) -> Cascade:
        """Open a bundle and, where an address is given, a channel to the cloud.

        Args:
            bundle: Folder that `python -m export` wrote.
            cloud: `host:port` of an Open Inference Protocol server; connected on first use.
            model: The large model's name there.
            deadline_s: Longest wait for the cloud in one call, in seconds.
            threshold: Overrides the bundle's threshold.
            threads: Threads of one edge run.
            providers: ONNX Runtime's execution providers, in order of preference, for example
                `("CUDAExecutionProvider", "CPUExecutionProvider")`; one that is not to be had is
                an error, never a silent fall back.
            forward: What the cloud gets: the `original` input, or the graph's own `model_input`
                (the only one there is when preprocessing is not fused).
            record: Keeps, on this device, the deferred inputs with M_L's answers; off where none is
                given. It belongs to the cascade, which closes it.
            **cloud_options: Passed to `CloudModel.open` (foreign engines, plaintext beyond
                loopback).

        Raises:
            BundleError: The bundle is missing, damaged or of an unknown contract version.
            SettingError: A setting is out of range or contradicts the bundle.
        """
        edge = EdgeModel.open(bundle, threshold=threshold, threads=threads, providers=providers)
        if record is not None and edge.metadata.input.name == contract.TEXT:
            raise SettingError("expected a bundle of pictures with record: no texts are kept yet")
        if cloud is None:
            _refuse_unknown(cloud_options)
            return cls(edge, recorder=record)
        from edge_runtime.cloud.model import CloudModel

        name = edge.metadata.input.name
        if forward == "original" and name not in contract.ORIGINALS:
            raise SettingError(
                f"the bundle takes {name!r}, not {contract.IMAGE!r}, so there is no original "
                "picture to forward: export with --preprocessing fused, or set "
                "forward='model_input'"
            )
        if forward == "model_input" and name == contract.TEXT:
            raise SettingError(
                "expected forward='original' for a bundle of texts: M_L has a tokenizer of its own"
            )
        cloud_options.setdefault("cloud_input", name)
        return cls(
            edge,
            CloudModel.open(
                cloud, model, labels=edge.labels, deadline_s=deadline_s, **cloud_options
            ),
            record,
        )

    def __call__(self, given: npt.NDArray[Any] | str) -> Answer:
        """Answer one input, e.g. uint8 [height, width, 3] or a text; see `batch` for errors."""
        return self.batch(self.edge.intake.one(given))[0]

    def batch(self, given: npt.NDArray[Any] | Sequence[npt.NDArray[Any] | str]) -> list[Answer]:
        """Answer a batch; only the deferred rows are forwarded, in one request.

        Args:
            given: Inputs of one size, e.g. uint8 [batch, height, width, 3] or a list of pictures;
                or texts.

        Returns:
            One answer an input, in order. A failed cloud never raises: the row's source is
            `EDGE_FALLBACK` and its `error` says why.

        Raises:
            InputError: The inputs do not fit the model.
        """
        start = perf_counter()
        rows = self.edge.intake.rows(given)
        gated = self.edge(rows)
        edge_s = perf_counter() - start
        if not gated.defer.any():
            return self._edge_answers(gated, Timings(edge_s, 0.0, perf_counter() - start))
        deferred = np.flatnonzero(gated.defer)
        outcome = self._ask_cloud(rows, gated, deferred)
        total_s = perf_counter() - start
        answers = self._edge_answers(gated, Timings(edge_s, total_s - edge_s, total_s))
        for place, row in enumerate(deferred.tolist()):
            small = answers[row]
            answers[row] = _replace_deferred(small, outcome, place)
            if self.recorder is not None and not isinstance(outcome, str):
                self._record(rows[row], small, outcome, place)
        return answers

    def _edge_answers(self, gated: Gated, timings: Timings) -> list[Answer]:
        labels = self.edge.labels
        columns = zip(
            gated.prediction.tolist(), gated.confidence.tolist(), gated.defer.tolist(), strict=True
        )
        try:
            return [Answer(p, labels[p], g, d, Source.EDGE, timings) for p, g, d in columns]
        except IndexError:
            raise BundleError(
                f"expected predictions below {len(labels)}, the number of labels, the graph gave "
                f"{int(gated.prediction.max())}: export the bundle again"
            ) from None

    def _ask_cloud(
        self, rows: npt.NDArray[Any], gated: Gated, deferred: npt.NDArray[np.intp]
    ) -> CloudAnswers | str:
        """Return M_L's answers to the deferred rows, or the reason why there are none."""
        if self.cloud is None:
            return _NO_CLOUD
        forwarded = rows if len(deferred) == len(rows) else rows[deferred]
        try:
            answers = self.cloud.infer(
                forwarded,
                confidences=gated.confidence[deferred],
                threshold=self.edge.threshold,
            )
        except CloudError as error:
            return f"{type(error).__name__}: {error}"
        self.sent_bytes += answers.sent_bytes
        return answers

    def _record(
        self, row: npt.NDArray[Any], small: Answer, large: CloudAnswers, place: int
    ) -> None:
        from edge_runtime.records import Record

        assert self.recorder is not None  # noqa: S101 - narrows the type
        assert self.cloud is not None  # noqa: S101 - the same
        record = Record(
            model=self.cloud.model,
            label=large.label[place],
            confidence=float(large.confidence[place]),
            small_label=small.label,
            small_confidence=small.confidence,
            threshold=self.edge.threshold,
        )
        self.recorder.add(row, record)

    def close(self) -> None:
        """Close the channel to the cloud, and write what the recorder still holds."""
        if self.recorder is not None:
            self.recorder.close()
        if self.cloud is not None:
            self.cloud.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_unknown(cloud_options: dict[str, Any]) -> None:
    """Refuse misspelt options where no cloud model is there to do so."""
    if not cloud_options:
        return
    from edge_runtime.cloud.model import CloudModel

    inspect.signature(CloudModel.open).bind_partial(**cloud_options)


def _replace_deferred(answer: Answer, outcome: CloudAnswers | str, place: int) -> Answer:
    if isinstance(outcome, str):
        return Answer(
            answer.prediction,
            answer.label,
            answer.confidence,
            deferred=True,
            source=Source.EDGE_FALLBACK,
            timings=answer.timings,
            error=f"{outcome}; {_NO_NUMBER}" if isnan(answer.confidence) else outcome,
        )
    return Answer(
        int(outcome.prediction[place]),
        outcome.label[place],
        answer.confidence,
        deferred=True,
        source=Source.CLOUD,
        timings=answer.timings,
    )
