"""Sends the deferred rows of a batch to M_L within policy and deadlines, and merges the answers.

A server refuses a whole request because of one bad row, e.g. a prompt that is too long. If it names
such rows, the others are sent again together. If it does not, the request is sent again in halves,
and each refused half in halves again, so that one bad row among n costs 2 log2 n calls and does not
affect the other rows.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from math import isnan
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.answer import Answer, Source
from edge_runtime.cloud.base import Cloud, CloudAnswers
from edge_runtime.cloud.outgoing import Outgoing
from edge_runtime.edge import Edge
from edge_runtime.edge_model import GateResult
from edge_runtime.errors import (
    CloudCircuitOpenError,
    CloudDeadlineError,
    CloudError,
    CloudProtocolError,
    CloudRejectedError,
    ShortMemoryError,
)
from edge_runtime.inputs.batches import Batch
from edge_runtime.policies.policy import Policy
from edge_runtime.stats import Stats

if TYPE_CHECKING:
    from edge_runtime.recording.recorder import Recorder

Places: TypeAlias = "npt.NDArray[np.intp]"
_NO_CLOUD: Final = "no cloud address was given"
_NO_BUDGET: Final = "the deferral budget is used up"
_NO_NUMBER: Final = (
    "the confidence is not a number: the input holds NaN or infinite values, or the model is broken"
)


class Fallback(NamedTuple):
    """The source and reason of an M_S answer that stands in for M_L's."""

    source: Source
    reason: str

    @classmethod
    def from_error(cls, error: CloudError) -> Fallback:
        """Return the fallback for an error of the cloud."""
        return cls(Source.EDGE_FALLBACK, f"{type(error).__name__}: {error}")


class OverBudgetError(Exception):
    """Nothing may be forwarded now."""

    fallback = Fallback(Source.EDGE_BUDGET, _NO_BUDGET)


class PartialAnswers(NamedTuple):
    """The outcome of a request that was refused as a whole and sent again in parts.

    Attributes:
        answers: By place among the requested rows: M_L's answers to a part, and the place in them.
        fallbacks: By place: the rows that M_L did not answer; no place is in both.
        compute_s: Total compute time that the server reports; 0 where it reports none.
    """

    answers: Mapping[int, tuple[CloudAnswers, int]]
    fallbacks: Mapping[int, Fallback]
    compute_s: float


Answers = CloudAnswers | PartialAnswers
Outcome = Answers | Fallback
Background = Callable[[Callable[[], Answers]], "Future[Answers]"]


@dataclass(frozen=True, slots=True)
class CloudRequest:
    """The rows of a batch for M_L.

    Attributes:
        batch: The inputs of a call.
        result: M_S's answers to them.
        rows: Indices of the rows for M_L, int [m].
        request_id: Name of the call at the server.
        deadline_s: Time limit of this call, or None.
        start: Start of the call, in seconds of `perf_counter`.
        packed: Rows that are encoded already, for the parts that are sent again.
    """

    batch: Batch
    result: GateResult
    rows: npt.NDArray[np.intp]
    request_id: str
    deadline_s: float | None
    start: float
    packed: dict[int, bytes] = field(default_factory=dict)


@dataclass(eq=False)
class Escalation:
    """The path of a cascade's deferred rows to M_L.

    Attributes:
        edge: M_S.
        cloud: M_L, or None: nothing is ever answered then.
        recorder: Recorder of M_L's answers; None records nothing.
        policy: Mode, deadlines and budget.
        stats: Counter of errors.
        background: Function that runs a call in another thread, for a soft deadline.
        outgoing: Compression and limit of what is sent.
        request_bytes: Total size of all answered requests.
    """

    edge: Edge
    cloud: Cloud | None
    recorder: Recorder | None
    policy: Policy
    stats: Stats
    background: Background
    outgoing: Outgoing = Outgoing()
    request_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, request: CloudRequest) -> Outcome:
        """Return M_L's answers, or the fallback.

        Raises:
            CloudError: M_L gave no answer, and the policy says `on_cloud_failure="raise"`.
        """
        if self.cloud is None:
            return Fallback(Source.EDGE_FALLBACK, _NO_CLOUD)
        soft_s = self.policy.soft_deadline_s
        try:
            if soft_s is None:
                return self._infer(self.cloud, request)
            return self._infer_within(self.cloud, request, soft_s)
        except OverBudgetError as over:
            return over.fallback
        except CloudError as error:
            self._count(error)
            if self.policy.on_cloud_failure == "raise":
                raise
            return Fallback.from_error(error)

    def _infer_within(self, cloud: Cloud, request: CloudRequest, soft_s: float) -> Answers:
        """Wait for M_L until the soft deadline; the call itself continues in the background."""
        future = self.background(lambda: self._infer(cloud, request))
        try:
            return future.result(max(0.0, soft_s - (perf_counter() - request.start)))
        except CloudError:  # the call's own deadline is a TimeoutError as well
            raise
        except FutureTimeoutError:
            future.cancel()  # if it has not started, nothing is sent
            raise CloudDeadlineError(
                f"no answer within the soft deadline of {soft_s:g} s: the answer is dropped"
            ) from None

    def _infer(self, cloud: Cloud, request: CloudRequest) -> Answers:
        """Send all rows; if they are refused together, send those again that may be answered."""
        start = perf_counter()
        try:
            return self._infer_once(cloud, request)
        except CloudRejectedError as error:
            rows = len(request.rows)
            if self.policy.on_cloud_failure == "raise" or not _is_divisible(error, rows):
                raise
            refusal = error
        limit_s = cloud.deadline_s if request.deadline_s is None else request.deadline_s

        def send(places: Places) -> CloudAnswers:
            left_s = None if limit_s is None else start + limit_s - perf_counter()
            if left_s is not None and left_s <= 0:
                raise CloudDeadlineError(f"no time of {limit_s:g} s was left to send a part")
            part = replace(request, rows=request.rows[places], deadline_s=left_s)
            return self._infer_once(cloud, part)

        return retry_in_parts(send, rows, refusal, self._count)

    def _count(self, error: CloudError) -> None:
        self.stats.record_error(type(error).__name__)

    def _infer_once(self, cloud: Cloud, request: CloudRequest) -> CloudAnswers:
        payload, most = self.outgoing.payload(request.batch, request.rows, cloud, request.packed)
        budget = self.policy.budget
        held = None
        if budget is not None and (held := budget.reserve(most)) is None:
            raise OverBudgetError
        confidence = request.result.confidence
        is_whole = len(request.rows) == len(confidence)  # then no copy is needed
        try:
            answers = cloud.infer(
                payload,
                confidences=confidence if is_whole else confidence[request.rows],
                threshold=self.edge.threshold,
                deadline_s=request.deadline_s,
                request_id=request.request_id,
            )
        except CloudCircuitOpenError:
            if budget is not None and held is not None:
                budget.refund(held)
            raise
        _check_rows(answers, len(request.rows))
        if budget is not None and held is not None:
            budget.settle(held, answers.request_bytes)
        with self._lock:
            self.request_bytes += answers.request_bytes
        if self.recorder is not None:
            self._record(self.recorder, cloud, request, answers)
        return answers

    def _record(
        self, recorder: Recorder, cloud: Cloud, request: CloudRequest, answers: CloudAnswers
    ) -> None:
        from edge_runtime.recording.records import Record

        result = request.result
        for place, row in enumerate(request.rows.tolist()):
            if answers.errors is not None and answers.errors[place] is not None:
                continue  # a smaller model on the way answered
            if result.prediction[row] == contract.NO_CLASS:
                continue  # the small model did not
            record = Record(
                model=cloud.model,
                label=answers.label[place],
                confidence=float(answers.confidence[place]),
                small_label=self.edge.labels[int(result.prediction[row])],
                small_confidence=float(result.confidence[row]),
                threshold=self.edge.threshold,
            )
            recorder.add(request.batch.rows[row], record)


def merge_answer(small: Answer, outcome: Outcome, place: int) -> Answer:
    """Return the final answer to a row from M_S's answer and the row's place in the outcome."""
    if isinstance(outcome, PartialAnswers):
        if place in outcome.fallbacks:
            return merge_answer(small, outcome.fallbacks[place], place)
        outcome, place = outcome.answers[place]
    if isinstance(outcome, Fallback):
        own = small.error or (_NO_NUMBER if isnan(small.confidence) else None)
        error = outcome.reason if own is None else f"{outcome.reason}; {own}"
        return small._replace(source=outcome.source, error=error)
    return small._replace(
        prediction=int(outcome.prediction[place]),
        label=outcome.label[place],
        source=Source.CLOUD,
        error=None if outcome.errors is None else outcome.errors[place],
    )


def require_cloud(answers: Iterable[Answer], short: ShortMemoryError) -> None:
    """Raise M_S's error for lack of memory unless M_L answered all rows."""
    for answer in answers:
        if answer.source is not Source.CLOUD:
            why = (answer.error or "").removesuffix(_NO_NUMBER).removesuffix("; ")
            raise ShortMemoryError(f"{short}; {why}" if why else f"{short}")


def limit_completion(
    result: GateResult, rows: Places | None, outcome: Outcome | None
) -> GateResult:
    """Mark only those texts as unfinished that M_S must complete, not those that M_L answered."""
    if not isinstance(outcome, PartialAnswers) or rows is None or result.unfinished is None:
        return result
    left = np.zeros_like(result.unfinished)
    left[rows[list(outcome.fallbacks)]] = True
    return result._replace(unfinished=result.unfinished & left)


def _check_rows(answers: CloudAnswers, rows: int) -> None:
    """Raise a `CloudProtocolError` unless every row has an answer, whatever kind of cloud it is."""
    counts = {len(answers.label), len(answers.prediction), len(answers.confidence)}
    counts |= set() if answers.errors is None else {len(answers.errors)}
    if counts != {rows}:
        raise CloudProtocolError(
            f"expected answers to {rows} rows, got {sorted(counts)}: none of them is used"
        )


def max_retries(rows: int) -> int:
    """Return the most further calls for a refused request: enough for one bad row anywhere."""
    return 2 + 2 * (rows - 1).bit_length()


def retry_in_parts(
    send: Callable[[Places], CloudAnswers],
    rows: int,
    refusal: CloudRejectedError,
    count: Callable[[CloudError], None],
) -> PartialAnswers:
    """Send the rows of a refused request again in parts, in at most `max_retries` calls.

    Args:
        send: Function that sends some of the rows, by their places.
        rows: Number of rows.
        refusal: The server's error for all rows together.
        count: Function that counts each error that leaves rows unanswered.
    """
    outcome = _PartialOutcome(count)
    queue = deque(outcome.split(np.arange(rows), refusal))
    for _ in range(max_retries(rows)):
        if not queue:
            break
        # Breadth first: every round answers all rows except those next to a bad one.
        places = queue.popleft()
        try:
            outcome.accept(places, send(places))
        except CloudRejectedError as error:
            refusal = error
            queue.extend(outcome.split(places, error))
        except CloudError as error:  # the cloud is down, or the time is over
            outcome.give_up([places, *queue], error)
            queue.clear()
        except OverBudgetError as over:
            outcome.fallbacks.update(dict.fromkeys(_flatten([places, *queue]), over.fallback))
            queue.clear()
    outcome.give_up(queue, refusal)
    return PartialAnswers(outcome.answers, outcome.fallbacks, outcome.compute_s)


class _PartialOutcome:
    """The rows answered and given up so far."""

    def __init__(self, count: Callable[[CloudError], None]) -> None:
        self.answers: dict[int, tuple[CloudAnswers, int]] = {}
        self.fallbacks: dict[int, Fallback] = {}
        self.compute_s = 0.0
        self._count = count

    def accept(self, places: Places, answers: CloudAnswers) -> None:
        """Add the answers to some rows."""
        self.compute_s += answers.compute_s
        for row, place in enumerate(places.tolist()):
            self.answers[place] = answers, row

    def give_up(self, parts: Iterable[Places], error: CloudError) -> None:
        """Leave some rows to M_S."""
        places = _flatten(parts)
        if places:
            self._count(error)
            self.fallbacks.update(dict.fromkeys(places, Fallback.from_error(error)))

    def split(self, places: Places, error: CloudRejectedError) -> list[Places]:
        """Return the parts of a refused request worth another call; give up the other rows."""
        named = [row for row in sorted(error.rows) if row < len(places)]
        if named:
            self._count(error)
            for row in named:
                reason = CloudRejectedError(error.rows[row])
                self.fallbacks[int(places[row])] = Fallback.from_error(reason)
            rest = np.delete(places, named)
            return [rest] if len(rest) else []
        if error.is_divisible and len(places) > 1:
            return np.array_split(places, 2)
        self.give_up([places], error)
        return []


def _is_divisible(error: CloudRejectedError, rows: int) -> bool:
    """Return whether parts of a refused request are worth another call."""
    return rows > 1 and (error.is_divisible or any(row < rows for row in error.rows))


def _flatten(parts: Iterable[Places]) -> list[int]:
    return [int(place) for part in parts for place in part]
