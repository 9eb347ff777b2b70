"""Times a language model's bundle on this device; needs the runtime's dependencies alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.timing import percentiles_ms
from edge_runtime import Cascade, Source, contract
from edge_runtime.language import Decoder

_WARM_UP: Final = 2
EDGE: Final = "edge"
WHOLE: Final = "deferred_whole"
CERTAIN: Final = "deferred"
ANSWERED: Final = "deferred_cloud"
WORDS: Final = {
    EDGE: "answered by the edge",
    WHOLE: "deferred, generated whole",
    CERTAIN: "deferred, ended once certain",
    ANSWERED: "deferred, the cloud's text",
}


class Timed(NamedTuple):
    """What a call took; NaN where it is not told.

    Attributes:
        total_s: Until the verdict, or the cloud's text.
        first_token_s: Until the edge's first token.
        per_token_s: Mean of each further one.
        tokens: How many the edge generated.
    """

    total_s: float
    first_token_s: float = math.nan
    per_token_s: float = math.nan
    tokens: float = math.nan


_Call = Callable[[str], Timed]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is timed.

    Attributes:
        bundle: Folder of a decoder's bundle.
        prompts: Taken in turn.
        calls: Calls of each kind.
        threads: Threads of one run; None takes all cores.
        cloud: Address of the large model, None to stay on the device.
        model: Its name there.
        deadline_s: Longest wait for it, in seconds.
    """

    bundle: Path
    prompts: Sequence[str]
    calls: int
    threads: int | None = None
    cloud: str | None = None
    model: str = contract.DEFAULT_MODEL
    deadline_s: float


def time_generations(plan: Plan) -> dict[str, Any]:
    """Return percentiles of what `time_each_kind` times."""
    threshold, timed = time_each_kind(plan)
    told = {name: _told(rows) for name, rows in timed.items()}
    return {"prompts": len(plan.prompts), "threshold": threshold, **told}


def time_each_kind(plan: Plan) -> tuple[float, dict[str, list[Timed]]]:
    """Time the first token, each further one, and the verdict; all kinds of calls take turns.

    What the edge answers is timed with a threshold that answers everything. Deferred prompts are
    timed with the least threshold, from the bundle's on, that defers all of them: generated whole,
    ended once their deferral is certain, and with a cloud until its text is there.

    Returns:
        That threshold, and what was timed by kind.

    Raises:
        BenchmarkError: The bundle cannot answer a prompt, or the cloud does not.
    """
    with ExitStack() as opened:
        decoder = opened.enter_context(Decoder.open(plan.bundle, threads=plan.threads))
        threshold = _deferring(decoder, plan.prompts)
        calls = {
            EDGE: _generates(decoder, -math.inf, stops=True, defers=False),
            WHOLE: _generates(decoder, threshold, stops=False),
            CERTAIN: _generates(decoder, threshold, stops=True),
        }
        if plan.cloud is not None:
            calls[ANSWERED] = _asks(opened.enter_context(_cascade(plan, threshold)))
        return threshold, _alternate(calls, plan.prompts, plan.calls)


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return what `time_generations` found as lines of a table."""
    return [
        "p50 / p90 / p99 in ms",
        *(f"{words:30}{_line(result[side])}" for side, words in WORDS.items() if side in result),
    ]


def _line(told: Mapping[str, Any]) -> str:
    times = (
        f"{name.replace('_', ' ')} " + " / ".join(f"{ms:.3f}" for ms in found.values())
        for name, found in told.items()
        if isinstance(found, Mapping)
    )
    tokens = [f"{told['tokens']:.1f} tokens"] if "tokens" in told else []
    return "   ".join([*times, *tokens])


def _deferring(decoder: Decoder, prompts: Sequence[str]) -> float:
    """Return the least threshold, from the decoder's own on, that defers every prompt."""
    answers = [decoder.generate([prompt], stop_when_certain=False)[0] for prompt in prompts]
    refused = [answer.reason for answer in answers if answer.reason is not None]
    if refused:
        raise BenchmarkError(
            f"expected prompts that the bundle can answer, one is not: {refused[0]}"
        )
    surest = np.float32(max(answer.confidence for answer in answers))
    return max(decoder.threshold, float(np.nextafter(surest, np.float32(math.inf))))


def _generates(decoder: Decoder, threshold: float, *, stops: bool, defers: bool = True) -> _Call:
    def call(prompt: str) -> Timed:
        begun = perf_counter()
        (answer,) = decoder.generate([prompt], threshold=threshold, stop_when_certain=stops)
        total_s = perf_counter() - begun
        if answer.defer != defers:
            raise BenchmarkError(
                f"expected defer={defers} at the threshold {threshold}, got {answer.defer} with "
                f"the confidence {answer.confidence}: the bundle does not decide alike each time"
            )
        timings, count = answer.timings, answer.token_count
        further = timings.per_token_s if count > 1 else math.nan
        return Timed(total_s, timings.first_token_s, further, count)

    return call


def _asks(cascade: Cascade) -> _Call:
    def call(prompt: str) -> Timed:
        begun = perf_counter()
        answer = cascade(prompt)
        total_s = perf_counter() - begun
        if answer.source is not Source.CLOUD:
            raise BenchmarkError(f"the cloud does not answer: {answer.error}")
        return Timed(total_s)

    return call


def _cascade(plan: Plan, threshold: float) -> Cascade:
    return Cascade.open(
        plan.bundle,
        cloud=plan.cloud,
        model=plan.model,
        threshold=threshold,
        threads=plan.threads,
        deadline_s=plan.deadline_s,
    )


def _alternate(
    calls: Mapping[str, _Call], prompts: Sequence[str], count: int
) -> dict[str, list[Timed]]:
    timed: dict[str, list[Timed]] = {name: [] for name in calls}
    for i in range(-_WARM_UP, count):
        for name, call in calls.items():
            found = call(prompts[i % len(prompts)])
            if i >= 0:
                timed[name].append(found)
    return timed


def _told(calls: Sequence[Timed]) -> dict[str, Any]:
    """Return the percentiles of what was timed, and how many tokens an answer had."""
    if math.isnan(calls[0].tokens):
        return {"answer": percentiles_ms([call.total_s for call in calls])}
    return {
        "first_token": percentiles_ms([call.first_token_s for call in calls]),
        "further_token": percentiles_ms([call.per_token_s for call in calls]),
        "verdict": percentiles_ms([call.total_s for call in calls]),
        "tokens": fmean(call.tokens for call in calls),
    }
