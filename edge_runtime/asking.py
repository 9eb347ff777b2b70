"""Asks M_L for rows of a batch, within policy and deadlines, or says why none were answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.answer import Source
from edge_runtime.cloud.answers import Cloud, CloudAnswers
from edge_runtime.dividing import OverBudgetError, Places, ask_in_parts, is_divisible
from edge_runtime.edge import Edge
from edge_runtime.errors import (
    CloudCircuitOpenError,
    CloudDeadlineError,
    CloudError,
    CloudRejectedError,
)
from edge_runtime.forwarding import Batch, most_bytes
from edge_runtime.model import Gated
from edge_runtime.outcomes import Divided, Outcome, Unanswered
from edge_runtime.policies.policy import Policy
from edge_runtime.stats import Stats

if TYPE_CHECKING:
    from edge_runtime.recorder import Recorder

Answered = CloudAnswers | Divided
Background = Callable[[Callable[[], Answered]], "Future[Answered]"]
_NO_CLOUD = "no cloud address was given"


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
        from edge_runtime.records import Record

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
