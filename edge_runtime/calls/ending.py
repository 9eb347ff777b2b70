"""The end of a call: the deferred rows go to M_L, and the answers are merged and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.answer import Answer, Source, Timings
from edge_runtime.cloud.base import CloudAnswers
from edge_runtime.edge import Edge, edge_answers
from edge_runtime.edge_model import GateResult
from edge_runtime.escalation import (
    CloudRequest,
    Escalation,
    Fallback,
    Outcome,
    limit_completion,
    merge_answer,
    require_cloud,
)
from edge_runtime.inputs.batches import Batch
from edge_runtime.policies.policy import Policy
from edge_runtime.stats import Stats

_log = logging.getLogger("edge_runtime")


class Call(NamedTuple):
    """A call in progress.

    Attributes:
        batch: Its inputs.
        request_id: Its name in answers and at the server.
        deadline_s: Time limit for the cloud, in seconds, or None for the default.
        start: Its start, in seconds of `perf_counter`.
    """

    batch: Batch
    request_id: str
    deadline_s: float | None
    start: float


@dataclass(eq=False)
class CallEnd:
    """Ends the calls of a cascade, whose attributes these are."""

    edge: Edge
    escalation: Escalation
    policy: Policy
    stats: Stats
    on_answer: Callable[[Answer], None] | None

    def __call__(self, call: Call, result: GateResult, fed: float) -> list[Answer]:
        """Send the deferred rows to M_L, and merge and count the answers."""
        gated = perf_counter()
        batch, request_id, deadline_s, start = call
        deferred = result.defer.tolist().count(True)  # faster than a sum on few rows
        if not deferred and self.policy.mode != "cloud_only":
            timings = Timings(fed - start, gated - fed, 0.0, 0.0, perf_counter() - start)
            answers = edge_answers(self.edge, result, timings, request_id)
            self.stats.record(Source.EDGE, timings.total_s, len(answers))
            self._observe(answers, 0)
            return answers
        rows = self._rows_to_forward(result, deferred)
        outcome: Outcome | None = None
        if rows is not None:
            request = CloudRequest(batch, result, rows, request_id, deadline_s, start)
            outcome = self.escalation.send(request)
        if not isinstance(outcome, CloudAnswers):
            result = self.edge.complete(limit_completion(result, rows, outcome), batch.rows)
        end = perf_counter()
        compute_s = 0.0 if isinstance(outcome, Fallback | None) else outcome.compute_s
        wire_s = end - gated - compute_s if rows is not None else 0.0
        timings = Timings(fed - start, gated - fed, wire_s, compute_s, end - start)
        answers = edge_answers(self.edge, result, timings, request_id)
        if rows is not None and outcome is not None:
            for place, row in enumerate(rows.tolist()):
                answers[row] = merge_answer(answers[row], outcome, place)
        if result.short is not None:
            require_cloud(answers, result.short)
        self.stats.record_answers(answers, timings.total_s)
        self._observe(answers, deferred)
        return answers

    def _rows_to_forward(self, result: GateResult, deferred: int) -> npt.NDArray[np.intp] | None:
        mode = self.policy.mode
        if mode == "cloud_only":
            return np.arange(len(result.defer))
        return np.flatnonzero(result.defer) if deferred and mode == "cascade" else None

    def _observe(self, answers: list[Answer], deferred: int) -> None:
        """Update the drift alarm, and call the callback."""
        drift = self.policy.drift
        if drift is not None and (report := drift.observe(deferred, len(answers))) is not None:
            _log.warning("%s", report.text)
        if self.on_answer is not None:
            for answer in answers:
                try:
                    self.on_answer(answer)
                except Exception:  # noqa: BLE001 - an error of the caller's code affects no answer
                    _log.exception("on_answer failed on %s", answer.request_id)
