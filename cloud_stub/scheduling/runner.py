"""Works on a batch in a worker's thread: puts calls together, takes the answer apart, checks it.

A call that the model cannot answer fails alone: where a batch fails as a whole, its calls are run
one by one.
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
)
from cloud_stub.scheduling.queue import Job, Result
from edge_runtime import contract
from edge_runtime.errors import InputError
from edge_runtime.wire.tensors import BF16, Array

_BF16_MAGNITUDE: Final = 0x7FFF
_BF16_INFINITY: Final = 0x7F80

_LOG: Final = logging.getLogger(__name__)
Ended: TypeAlias = Result | Exception


class Runner:
    """Runs a backend on batches of jobs.

    Args:
        backend: The model.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._outputs = backend.signature.outputs
        self._is_batched = backend.signature.is_batched

    def __call__(self, jobs: list[Job]) -> Sequence[Ended]:
        """Return for each job its result, or why there is none."""
        try:
            return self._run(jobs)
        except RefusedRowsError as error:
            return self._without(jobs, error)
        except Exception as error:  # noqa: BLE001 - models raise anything, and the server goes on
            if len(jobs) > 1:
                if _would_recur(error):
                    return [error] * len(jobs)
                return [self._alone(job) for job in jobs]
            return [_in_words(error)]

    def _without(self, jobs: list[Job], error: RefusedRowsError) -> list[Ended]:
        """Refuse the jobs of some rows, and run the others together."""
        ended: list[Ended | None] = []
        start = 0
        for job in jobs:
            reasons = {
                row - start: why
                for row, why in sorted(error.reasons.items())
                if start <= row < start + job.rows
            }
            ended.append(RefusedRowsError(reasons) if reasons else None)
            start += job.rows
        others = [job for job, end in zip(jobs, ended, strict=True) if end is None]
        if len(others) == len(jobs):
            return [ModelFailureError("the model failed: it refused rows that it was not given")]
        answers = iter(self(others) if others else ())
        return [next(answers) if end is None else end for end in ended]

    def _alone(self, job: Job) -> Ended:
        """Run one job of a batch that failed, if somebody still waits for it."""
        if job.deadline <= monotonic() or not job.is_wanted():
            return ExpiredError("the deadline passed while its batch was worked on")
        if job.has_parts:
            job.on_part = None  # what was said is not said again
        return self([job])[0]

    def _run(self, jobs: list[Job]) -> list[Ended]:
        batch = _merge(jobs)
        start = perf_counter()
        whole: Outputs | None = None
        is_untold = False
        waiting = jobs
        for given in self._backend.infer(batch):
            if whole is not None and is_untold and not _pass_on(jobs, whole, waiting):
                break
            jobs[0].heard = monotonic()
            part = given if isinstance(given, Part) else Part(given)
            for spec in self._outputs:
                self._check(spec, part.outputs, batch.rows)
            whole = part.outputs
            is_untold = part is not given
            if not is_untold:
                waiting = self._settled(jobs, part, waiting, start)
                if not _pass_on(jobs, whole, waiting):
                    break
        compute_s = perf_counter() - start
        if whole is None:
            raise ModelFailureError("the model failed: it gave no answer")
        return [self._result(outputs, compute_s) for outputs in _split(whole, jobs)]

    def _settled(self, jobs: list[Job], part: Part, waiting: list[Job], start: float) -> list[Job]:
        """Answer the jobs whose rows are all whole; return those that still wait."""
        if not part.whole_rows:
            return waiting
        left, begin = [], 0
        for job, outputs in zip(jobs, _split(part.outputs, jobs), strict=True):
            rows = range(begin, begin + job.rows)
            begin += job.rows
            if job not in waiting:
                continue
            if part.whole_rows.issuperset(rows):
                job.settle(self._result(outputs, perf_counter() - start))
            else:
                left.append(job)
        return left

    def _check(self, spec: TensorSpec, outputs: Outputs, rows: int) -> None:
        """Hold an output's shape to the signature: it is the model's promise."""
        shape = outputs[spec.name].shape
        expected = (rows, *spec.shape[1:]) if self._is_batched else spec.shape
        if len(shape) != len(expected) or any(
            want not in {-1, came} for want, came in zip(expected, shape, strict=True)
        ):
            raise ModelFailureError(
                f"the model failed: expected its output {spec.name!r} as {list(expected)}, got "
                f"{list(shape)}"
            )

    def _result(self, outputs: Outputs, compute_s: float) -> Ended:
        for spec in self._outputs:
            bad = _bad(spec, outputs[spec.name])
            if bad is not None and bad.any():
                why = f"the model failed: its {spec.name} is not a finite number"
                named = self._is_batched and bad.ndim
                rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)) if named else ()
                return ModelFailureError(why, reasons={int(row): why for row in rows})
        return Result(outputs, compute_s)


def _bad(spec: TensorSpec, array: Array) -> npt.NDArray[np.bool_] | None:
    """Return which values of an output are no numbers; None of one that can hold none."""
    # Scores may be infinite, say of a class that is masked; a confidence never.
    if spec.datatype == BF16:
        return np.asarray(array & _BF16_MAGNITUDE > _BF16_INFINITY)
    if array.dtype.kind == "f":
        return ~np.isfinite(array) if spec.name == contract.CONFIDENCE else np.isnan(array)
    return None


def _merge(jobs: list[Job]) -> Batch:
    left_s = max(job.deadline for job in jobs) - monotonic()
    is_streamed = any(job.on_part is not None for job in jobs)
    if len(jobs) == 1:
        (job,) = jobs
        return Batch(job.inputs, job.rows, left_s, is_streamed, lambda _: job.is_wanted())
    inputs = {name: _joined([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
    whose = [job for job in jobs for _ in range(job.rows)]
    return Batch(inputs, len(whose), left_s, is_streamed, lambda row: whose[row].is_wanted())


def _joined(columns: Sequence[Column]) -> Column:
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
    """Hand a part of the answer to who reads it as it comes; returns whether anybody waits."""
    wanted = False
    for job, outputs in zip(jobs, _split(part, jobs), strict=True):
        if job not in waiting or not job.is_wanted():
            continue
        wanted = True
        if job.on_part is not None:
            job.has_parts = True
            job.on_part(outputs)
    return wanted


def _would_recur(error: Exception) -> bool:
    """Whether a batch was refused for a state of things and not for what one of its jobs is."""
    if isinstance(error, OverloadError):
        return error.pushback_s is not None
    return isinstance(error, UnavailableError | ExpiredError)


def _in_words(error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, InputError):
        return BadRequestError(str(error))
    # The operator learns the place, the caller the words, which may repeat the input.
    _LOG.error("model failed", exc_info=error)
    return ModelFailureError(f"the model failed: {type(error).__name__}: {error}")
