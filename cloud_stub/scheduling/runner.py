"""Runs a batch in a worker's thread: joins calls, splits the answer, checks it.

A call that the model cannot answer fails alone: if a batch fails as a whole, its calls are run one
by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from cloud_stub.backends.backend import Backend, Batch, Column, Outputs, Part, TensorSpec
from cloud_stub.errors import (
    BadRequestError,
    CallError,
    ExpiredError,
    ModelFailureError,
    OverloadError,
    RefusedRowsError,
    UnavailableError,
    out_of_memory,
)
from cloud_stub.scheduling.queue import Job, Result
from edge_runtime import contract
from edge_runtime.errors import InputError, lacks_memory
from edge_runtime.wire.tensors import BF16, Array

_BF16_MAGNITUDE: Final = 0x7FFF
_BF16_INFINITY: Final = 0x7F80

_LOG: Final = logging.getLogger(__name__)
Outcome: TypeAlias = Result | Exception


class Runner:
    """Runs a backend on batches of jobs.

    Args:
        backend: The model.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._outputs = backend.signature.outputs
        self._is_batched = backend.signature.is_batched

    def __call__(self, jobs: list[Job]) -> Sequence[Outcome]:
        """Return the result of each job, or the error it ended in."""
        try:
            return self._run(jobs)
        except RefusedRowsError as error:
            return self._run_others(jobs, error)
        except Exception as error:  # noqa: BLE001 - models raise anything, and the server continues
            if len(jobs) > 1:
                if _would_recur(error):
                    return [error] * len(jobs)
                return [self._run_alone(job) for job in jobs]
            return [_call_error(error)]

    def _run_others(self, jobs: list[Job], error: RefusedRowsError) -> list[Outcome]:
        """Refuse the jobs with refused rows, and run the others together."""
        refused: list[Outcome | None] = []
        start = 0
        for job in jobs:
            reasons = {
                row - start: why
                for row, why in sorted(error.reasons.items())
                if start <= row < start + job.rows
            }
            refused.append(RefusedRowsError(reasons) if reasons else None)
            start += job.rows
        others = [job for job, refusal in zip(jobs, refused, strict=True) if refusal is None]
        if len(others) == len(jobs):
            return [ModelFailureError("the model failed: it refused rows that it was not given")]
        answers = iter(self(others) if others else ())
        return [next(answers) if refusal is None else refusal for refusal in refused]

    def _run_alone(self, job: Job) -> Outcome:
        """Run one job of a batch that failed, if its caller is still waiting."""
        if job.deadline <= monotonic() or not job.is_wanted():
            return ExpiredError("the deadline passed while its batch was worked on")
        if job.has_parts:
            job.on_part = None  # parts that were sent are not sent again
        return self([job])[0]

    def _run(self, jobs: list[Job]) -> list[Outcome]:
        batch = _join(jobs)
        start = perf_counter()
        whole: Outputs | None = None
        is_held = False  # bare outputs are passed on only when more follows
        waiting = jobs
        for answer in self._backend.infer(batch):
            if whole is not None and is_held and not _pass_on(jobs, whole, waiting):
                break
            jobs[0].alive_s = monotonic()
            part = answer if isinstance(answer, Part) else Part(answer)
            for spec in self._outputs:
                self._check_shape(spec, part.outputs, batch.rows)
            whole = part.outputs
            is_held = part is not answer
            if not is_held:
                waiting = self._answer_whole(jobs, part, waiting, start)
                if not _pass_on(jobs, whole, waiting):
                    break
        compute_s = perf_counter() - start
        if whole is None:
            raise ModelFailureError("the model failed: it gave no answer")
        return [self._result(outputs, compute_s) for outputs in _split(whole, jobs)]

    def _answer_whole(
        self, jobs: list[Job], part: Part, waiting: list[Job], start: float
    ) -> list[Job]:
        """Answer the jobs with complete rows only; return those that are still waiting."""
        if not part.whole_rows:
            return waiting
        left, begin = [], 0
        for job, outputs in zip(jobs, _split(part.outputs, jobs), strict=True):
            rows = range(begin, begin + job.rows)
            begin += job.rows
            if job not in waiting:
                continue
            if part.whole_rows.issuperset(rows):
                job.answer(self._result(outputs, perf_counter() - start))
            else:
                left.append(job)
        return left

    def _check_shape(self, spec: TensorSpec, outputs: Outputs, rows: int) -> None:
        """Refuse an output of another shape than the signature promises."""
        shape = outputs[spec.name].shape
        expected = (rows, *spec.shape[1:]) if self._is_batched else spec.shape
        if len(shape) != len(expected) or any(
            want not in {-1, came} for want, came in zip(expected, shape, strict=True)
        ):
            raise ModelFailureError(
                f"the model failed: expected its output {spec.name!r} as {list(expected)}, got "
                f"{list(shape)}"
            )

    def _result(self, outputs: Outputs, compute_s: float) -> Outcome:
        for spec in self._outputs:
            bad = _not_numbers(spec, outputs[spec.name])
            if bad is not None and bad.any():
                why = f"the model failed: its {spec.name} is not a finite number"
                has_rows = self._is_batched and bad.ndim
                rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)) if has_rows else ()
                return ModelFailureError(why, reasons={int(row): why for row in rows})
        return Result(outputs, compute_s)


def _not_numbers(spec: TensorSpec, array: Array) -> npt.NDArray[np.bool_] | None:
    """Return which values of an output are not numbers; None for a type without such values."""
    # Scores may be infinite, for example of a masked class; a confidence must not.
    if spec.datatype == BF16:
        return np.asarray(array & _BF16_MAGNITUDE > _BF16_INFINITY)
    if array.dtype.kind == "f":
        return ~np.isfinite(array) if spec.name == contract.CONFIDENCE else np.isnan(array)
    return None


def _join(jobs: list[Job]) -> Batch:
    left_s = max(job.deadline for job in jobs) - monotonic()
    is_streamed = any(job.on_part is not None for job in jobs)
    if len(jobs) == 1:
        (job,) = jobs
        return Batch(job.inputs, job.rows, left_s, is_streamed, lambda _: job.is_wanted())
    inputs = {name: _join_columns([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
    owners = [job for job in jobs for _ in range(job.rows)]
    return Batch(inputs, len(owners), left_s, is_streamed, lambda row: owners[row].is_wanted())


def _join_columns(columns: Sequence[Column]) -> Column:
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    if len(arrays) == len(columns):
        return np.concatenate(arrays)
    rows: list[Any] = [row for column in columns for row in column]
    return rows


def _split(outputs: Outputs, jobs: list[Job]) -> list[Outputs]:
    if len(jobs) == 1:
        return [outputs]
    parts: list[Outputs] = []
    start = 0
    for job in jobs:
        end = start + job.rows
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts


def _pass_on(jobs: list[Job], part: Outputs, waiting: list[Job]) -> bool:
    """Send a part of the answer to the callers that stream; return whether anyone is waiting."""
    is_wanted = False
    for job, outputs in zip(jobs, _split(part, jobs), strict=True):
        if job not in waiting or not job.is_wanted():
            continue
        is_wanted = True
        if job.on_part is not None:
            job.has_parts = True
            job.on_part(outputs)
    return is_wanted


def _would_recur(error: Exception) -> bool:
    """Return whether a batch failed for the state of the server, not for one of its jobs."""
    if isinstance(error, OverloadError):
        return error.pushback_s is not None
    return isinstance(error, UnavailableError | ExpiredError)


def _call_error(error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, InputError):
        return BadRequestError(str(error))
    if lacks_memory(error):
        _LOG.warning("no memory was left for a call")
        return out_of_memory()
    # The log gets the location only: the message, which the caller gets, may repeat the input.
    _LOG.error("model failed", exc_info=error)
    return ModelFailureError(f"the model failed: {type(error).__name__}: {error}")
