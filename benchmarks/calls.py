"""Asks a cascade for all answers to a test set, the way a device would."""

from __future__ import annotations

from typing import Any

from benchmarks.errors import BenchmarkError
from edge_runtime import Answer, Cascade, Source

TIMED_CALLS = 1000
"""Inputs that are asked one by one: more of them narrow no percentile that is printed."""
DEADLINE_S = 30.0
"""Longest wait for M_L: quality is measured, and a slow one must not count as a wrong one."""
_BATCH = 128


def as_shipped(cascade: Cascade, inputs: Any) -> list[Answer]:
    """Return an answer an input: the first ones one by one, which times them, the rest in batches.

    Args:
        cascade: Whom to ask.
        inputs: Pictures or texts, a slice of which is a batch.

    Raises:
        BenchmarkError: M_L did not answer something that was deferred.
    """
    single = [cascade(one) for one in inputs[:TIMED_CALLS]]
    return answered(single) + [_untimed(a) for a in in_batches(cascade, inputs[TIMED_CALLS:])]


def in_batches(cascade: Cascade, inputs: Any, *, expected: Source | None = None) -> list[Answer]:
    """Return an answer an input, asked for in batches.

    Args:
        cascade: Whom to ask.
        inputs: Pictures or texts, a slice of which is a batch.
        expected: Who has to have answered; whoever was asked when None.

    Raises:
        BenchmarkError: Somebody else answered.
    """
    answers: list[Answer] = []
    for first in range(0, len(inputs), _BATCH):
        answers += cascade.batch(inputs[first : first + _BATCH])
    return answered(answers, expected=expected)


def answered(answers: list[Answer], *, expected: Source | None = None) -> list[Answer]:
    """Return answers that are whole; see `in_batches`."""
    wrong = [a for a in answers if a.source is Source.EDGE_FALLBACK]
    wrong += [a for a in answers if expected not in {None, a.source}]
    if wrong:
        raise BenchmarkError(f"the large model did not answer all of the test: {wrong[0].error}")
    return answers


def _untimed(answer: Answer) -> Answer:
    # The time of a batch is not the time of a call.
    nothing = answer.timings._replace(total_s=float("nan"))
    return answer._replace(timings=nothing)
