"""Asks M_L for rows of a batch, within policy and deadlines, or says why none were answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from math import isnan
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.answer import Answer, Source
from edge_runtime.cloud.base import Cloud, CloudAnswers

# MERGEDOC edge_runtime/dividing.py: 'Asks M_L again about parts of a request that it refused as a whole.\n\nA server refuses a call for one row that it cannot take, say a prompt that is too long. Where it\nnames such rows the others are asked for together; where it does not, halves are asked for, and of a\nhalf that is refused its halves, so that one bad row among n costs 2 log2 n calls and no other row\nits answer.\n'
# MERGEDOC edge_runtime/outcomes.py: "What comes of asking M_L about rows of a batch, and what each row's answer is then."
from edge_runtime.edge import Edge
from edge_runtime.edge_model import Gated
from edge_runtime.errors import (
    CloudCircuitOpenError,
    CloudDeadlineError,
    CloudError,
    CloudRejectedError,
)
from edge_runtime.inputs import Batch, most_bytes
from edge_runtime.policies.policy import Policy
from edge_runtime.stats import Stats

if TYPE_CHECKING:
    from edge_runtime.recording.recorder import Recorder

_NO_CLOUD = "no cloud address was given"

Places: TypeAlias = "npt.NDArray[np.intp]"
_NO_BUDGET = "the deferral budget is used up"
_NO_NUMBER: Final = (
    "the confidence is not a number: the input holds NaN or infinite values, or the model is broken"
)


class Unanswered:
    """Why M_L did not answer, and what M_S's answer is called then."""

    __slots__ = ("reason", "source")

    def __init__(self, source: Source, reason: str) -> None:
        self.source = source
        self.reason = reason

    @classmethod
    def because(cls, error: CloudError) -> Unanswered:
        """Return what an error of the cloud makes of a row."""
        return cls(Source.EDGE_FALLBACK, f"{type(error).__name__}: {error}")


class OverBudgetError(Exception):
    """Nothing may be forwarded now."""

    unanswered = Unanswered(Source.EDGE_BUDGET, _NO_BUDGET)


class Divided(NamedTuple):
    """What came of a request that was refused whole and asked again in parts.

    Attributes:
        answered: By place among the rows that were asked: the answers it is among, and where.
        unanswered: By place, those that M_L did not answer; no place is in both.
        compute_s: How long the server says it worked on all parts; 0 where it does not say.
    """

    answered: Mapping[int, tuple[CloudAnswers, int]]
    unanswered: Mapping[int, Unanswered]
    compute_s: float


Answered = CloudAnswers | Divided
Background = Callable[[Callable[[], Answered]], "Future[Answered]"]
Outcome = CloudAnswers | Divided | Unanswered


@dataclass(frozen=True, slots=True)
class Question:
    """What M_L is asked.

    Attributes:
        batch: The inputs of a call.
        gated: What M_S says to them.
        rows: Which of them M_L is to answer, int [m].
        request_id: Names the call at the server.
        deadline_s: Longest wait of this call, or None.
        start: When the call began, in seconds of `perf_counter`.
    """

    batch: Batch
    gated: Gated
    rows: npt.NDArray[np.intp]
    request_id: str
    deadline_s: float | None
    start: float


class Asking:
    """The way of a cascade's questions to M_L.

    Args:
        edge: M_S.
        cloud: M_L, or None: nothing is ever answered then.
        recorder: Keeps what M_L answered; None keeps nothing.
        policy: Whom to ask, for how long, and what it may cost.
        stats: Counts the errors.
        background: Runs a call in a thread of its own, for a soft deadline.
    """

    def __init__(
        self,
        edge: Edge,
        cloud: Cloud | None,
        recorder: Recorder | None,
        policy: Policy,
        stats: Stats,
        background: Background,
    ) -> None:
        self._edge = edge
        self._cloud = cloud
        self._recorder = recorder
        self._policy = policy
        self._stats = stats
        self._background = background
        self._lock = threading.Lock()
        self.sent_bytes = 0
        """Size of all answered requests."""

    def ask(self, question: Question) -> Outcome:
        """Return M_L's answers, or why there are none.

        Raises:
            CloudError: There are none, and the policy says `on_cloud_failure="raise"`.
        """
        if self._cloud is None:
            return Unanswered(Source.EDGE_FALLBACK, _NO_CLOUD)
        soft_s = self._policy.soft_deadline_s
        try:
            if soft_s is None:
                return self._answers(self._cloud, question)
            return self._within(self._cloud, question, soft_s)
        except OverBudgetError as over:
            return over.unanswered
        except CloudError as error:
            self._count(error)
            if self._policy.on_cloud_failure == "raise":
                raise
            return Unanswered.because(error)

    def _within(self, cloud: Cloud, question: Question, soft_s: float) -> Answered:
        """Wait for M_L at most until the soft deadline; the call itself goes on without us."""
        future = self._background(lambda: self._answers(cloud, question))
        try:
            return future.result(max(0.0, soft_s - (perf_counter() - question.start)))
        except CloudError:  # the call's own deadline is a TimeoutError as well
            raise
        except FutureTimeoutError:
            future.cancel()  # where it has not begun, nothing is sent
            raise CloudDeadlineError(
                f"no answer within the soft deadline of {soft_s:g} s: the answer is dropped"
            ) from None

    def _answers(self, cloud: Cloud, question: Question) -> Answered:
        """Ask for all rows, and where they are refused together for those that can be answered."""
        begun = perf_counter()
        try:
            return self._forward(cloud, question)
        except CloudRejectedError as error:
            rows = len(question.rows)
            if self._policy.on_cloud_failure == "raise" or not is_divisible(error, rows):
                raise
            refused = error
        limit_s = cloud.deadline_s if question.deadline_s is None else question.deadline_s

        def ask(places: Places) -> CloudAnswers:
            left_s = None if limit_s is None else begun + limit_s - perf_counter()
            if left_s is not None and left_s <= 0:
                raise CloudDeadlineError(f"no time of {limit_s:g} s was left to ask for a part")
            part = replace(question, rows=question.rows[places], deadline_s=left_s)
            return self._forward(cloud, part)

        return ask_in_parts(ask, rows, refused, self._count)

    def _count(self, error: CloudError) -> None:
        self._stats.record_error(type(error).__name__)

    def _forward(self, cloud: Cloud, question: Question) -> CloudAnswers:
        forwarded = question.batch.forwarded(question.rows, as_files=cloud.takes_files)
        budget = self._policy.budget
        held = None
        if budget is not None and (held := budget.reserve(most_bytes(forwarded))) is None:
            raise OverBudgetError
        try:
            answers = cloud.infer(
                forwarded,
                confidences=_picked(question.gated.confidence, question.rows),
                threshold=self._edge.threshold,
                deadline_s=question.deadline_s,
                request_id=question.request_id,
            )
        except CloudCircuitOpenError:
            if budget is not None and held is not None:
                budget.refund(held)
            raise
        if budget is not None and held is not None:
            budget.settle(held, answers.sent_bytes)
        with self._lock:
            self.sent_bytes += answers.sent_bytes
        if self._recorder is not None:
            self._record(self._recorder, cloud, question, answers)
        return answers

    def _record(
        self, recorder: Recorder, cloud: Cloud, question: Question, answers: CloudAnswers
    ) -> None:
        from edge_runtime.recording.records import Record

        gated = question.gated
        for place, row in enumerate(question.rows.tolist()):
            if answers.errors is not None and answers.errors[place] is not None:
                continue  # not M_L's answer
            record = Record(
                model=cloud.model,
                label=answers.label[place],
                confidence=float(answers.confidence[place]),
                small_label=self._edge.labels[int(gated.prediction[row])],
                small_confidence=float(gated.confidence[row]),
                threshold=self._edge.threshold,
            )
            recorder.add(question.batch.rows[row], record)


def _picked(whole: npt.NDArray[Any], rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Return some rows; all of them without a copy."""
    return whole if len(rows) == len(whole) else whole[rows]


def is_divisible(error: CloudRejectedError, rows: int) -> bool:
    """Return whether there is sense in asking for parts of a request that was refused."""
    return rows > 1 and (error.is_divisible or any(row < rows for row in error.rows))


def most_calls(rows: int) -> int:
    """Return how many further calls a refused request may cost: enough for one bad row anywhere."""
    return 2 + 2 * (rows - 1).bit_length()


def ask_in_parts(
    ask: Callable[[Places], CloudAnswers],
    rows: int,
    error: CloudRejectedError,
    record: Callable[[CloudError], None],
) -> Divided:
    """Ask about the rows of a request that was refused, in parts, within `most_calls`.

    Args:
        ask: Asks about some of the rows, by their places.
        rows: How many there are.
        error: Why all of them together were refused.
        record: Told of every error that leaves rows unanswered.
    """
    found = _Found(record)
    waiting = deque(found.divided(np.arange(rows), error))
    for _ in range(most_calls(rows)):
        if not waiting:
            break
        # The whole breadth first: every round settles all rows but those beside a bad one.
        places = waiting.popleft()
        try:
            found.put(places, ask(places))
        except CloudRejectedError as refused:
            error = refused
            waiting.extend(found.divided(places, refused))
        except CloudError as failed:  # the cloud is gone, or the time is over
            found.leave([places, *waiting], failed)
            waiting.clear()
        except OverBudgetError as over:
            found.left.update(dict.fromkeys(_all([places, *waiting]), over.unanswered))
            waiting.clear()
    found.leave(list(waiting), error)
    return Divided(found.answered, found.left, found.compute_s)


class _Found:
    """What is known of the rows so far."""

    def __init__(self, record: Callable[[CloudError], None]) -> None:
        self.answered: dict[int, tuple[CloudAnswers, int]] = {}
        self.left: dict[int, Unanswered] = {}
        self.compute_s = 0.0
        self._record = record

    def put(self, places: Places, answers: CloudAnswers) -> None:
        """Take the answers of some rows."""
        self.compute_s += answers.compute_s
        for row, place in enumerate(places.tolist()):
            self.answered[place] = answers, row

    def leave(self, parts: list[Places], error: CloudError) -> None:
        """Give rows up."""
        if parts:
            self._record(error)
            self.left.update(dict.fromkeys(_all(parts), Unanswered.because(error)))

    def divided(self, places: Places, error: CloudRejectedError) -> list[Places]:
        """Return the parts of a refused request that may be taken; give up the other rows."""
        named = [row for row in sorted(error.rows) if row < len(places)]
        if named:
            self._record(error)
            for row in named:
                why = CloudRejectedError(error.rows[row])
                self.left[int(places[row])] = Unanswered.because(why)
            rest = np.delete(places, named)
            return [rest] if len(rest) else []
        if error.is_divisible and len(places) > 1:
            return np.array_split(places, 2)
        self.leave([places], error)
        return []


def _all(parts: list[Places]) -> list[int]:
    return [int(place) for part in parts for place in part]


def replaced(small: Answer, outcome: Outcome, place: int) -> Answer:
    """Return the answer that a row gets after M_L was asked.

    Args:
        small: M_S's answer.
        outcome: Of `Asking.ask`.
        place: The row's place among those that M_L was asked.
    """
    if isinstance(outcome, Divided):
        missing = outcome.unanswered.get(place)
        if missing is not None:
            return replaced(small, missing, place)
        outcome, place = outcome.answered[place]
    if isinstance(outcome, Unanswered):
        own = small.error or (_NO_NUMBER if isnan(small.confidence) else None)
        error = outcome.reason if own is None else f"{outcome.reason}; {own}"
        return small._replace(source=outcome.source, error=error)
    return small._replace(
        prediction=int(outcome.prediction[place]),
        label=outcome.label[place],
        source=Source.CLOUD,
        error=None if outcome.errors is None else outcome.errors[place],
    )
