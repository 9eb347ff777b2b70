"""Times a language model's bundle on this device; needs only the runtime's dependencies."""

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
TITLES: Final = {
    EDGE: "answered on the edge",
    WHOLE: "deferred, generated in full",
    CERTAIN: "deferred, stopped once certain",
    ANSWERED: "deferred, the cloud's text",
}
"""Description by kind of call."""


class CallTimes(NamedTuple):
    """The times of one call; NaN if unknown.

    Attributes:
        total_s: Time to the decision, or to the cloud's text.
        first_token_s: Time to the edge's first token.
        per_token_s: Mean time of each further token.
        tokens: Number of tokens that the edge generated.
    """

    total_s: float
    first_token_s: float = math.nan
    per_token_s: float = math.nan
    tokens: float = math.nan


_Call = Callable[[str], CallTimes]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The calls to time.

    Attributes:
        bundle: Folder of a decoder's bundle.
        prompts: Prompts, used in turn.
        calls: Number of calls of each kind.
        threads: Threads of one run; None takes all cores.
        cloud: Address of the large model; None to stay on the device.
        model: The large model's name there.
        deadline_s: Longest wait for the large model, in seconds.
    """

    bundle: Path
    prompts: Sequence[str]
    calls: int
    threads: int | None = None
    cloud: str | None = None
    model: str = contract.DEFAULT_MODEL
    deadline_s: float


def time_generations(plan: Plan) -> dict[str, Any]:
    """Return the percentiles of each kind's times."""
    threshold, times = time_each_kind(plan)
    summaries = {name: _summarise(calls) for name, calls in times.items()}
    return {"prompts": len(plan.prompts), "threshold": threshold, **summaries}


def time_each_kind(plan: Plan) -> tuple[float, dict[str, list[CallTimes]]]:
    """Time the first token, each further one, and the decision; all kinds of calls take turns.

    Edge answers are timed with a threshold that answers everything. Deferred prompts are timed with
    the lowest threshold, starting from the bundle's own, that defers all of them: generated in
    full, stopped once their deferral is certain, and, with a cloud, until its text arrives.

    Returns:
        The threshold for deferred prompts, and the times by kind of call.

    Raises:
        BenchmarkError: The bundle cannot answer a prompt, or the cloud does not.
    """
    with ExitStack() as opened:
        decoder = opened.enter_context(Decoder.open(plan.bundle, threads=plan.threads))
        threshold = _lowest_threshold(decoder, plan.prompts)
        calls = {
            EDGE: _edge_call(decoder, -math.inf, stops=True, defers=False),
            WHOLE: _edge_call(decoder, threshold, stops=False),
            CERTAIN: _edge_call(decoder, threshold, stops=True),
        }
        if plan.cloud is not None:
            calls[ANSWERED] = _cloud_call(opened.enter_context(_cascade(plan, threshold)))
        return threshold, _alternate(calls, plan.prompts, plan.calls)


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the result of `time_generations` as lines of a table."""
    return [
        "p50 / p90 / p99 in ms",
        *(f"{title:31}{_line(result[kind])}" for kind, title in TITLES.items() if kind in result),
    ]


def _line(summary: Mapping[str, Any]) -> str:
    times = (
        f"{name.replace('_', ' ')} " + " / ".join(f"{ms:.3f}" for ms in percentiles.values())
        for name, percentiles in summary.items()
        if isinstance(percentiles, Mapping)
    )
    tokens = [f"{summary['tokens']:.1f} tokens"] if "tokens" in summary else []
    return "   ".join([*times, *tokens])


def _lowest_threshold(decoder: Decoder, prompts: Sequence[str]) -> float:
    """Return the lowest threshold, starting from the decoder's own, that defers every prompt."""
    answers = [decoder.generate([prompt], stop_when_certain=False)[0] for prompt in prompts]
    refused = [answer.reason for answer in answers if answer.reason is not None]
    if refused:
        raise BenchmarkError(
            f"expected prompts that the bundle can answer, one is refused: {refused[0]}"
        )
    surest = np.float32(max(answer.confidence for answer in answers))
    return max(decoder.threshold, float(np.nextafter(surest, np.float32(math.inf))))


def _edge_call(decoder: Decoder, threshold: float, *, stops: bool, defers: bool = True) -> _Call:
    def call(prompt: str) -> CallTimes:
        start = perf_counter()
        (answer,) = decoder.generate([prompt], threshold=threshold, stop_when_certain=stops)
        total_s = perf_counter() - start
        if answer.defer != defers:
            raise BenchmarkError(
                f"expected defer={defers} at the threshold {threshold}, got {answer.defer} with "
                f"the confidence {answer.confidence}: the bundle's decisions are not repeatable"
            )
        timings, count = answer.timings, answer.token_count
        further = timings.per_token_s if count > 1 else math.nan
        return CallTimes(total_s, timings.first_token_s, further, count)

    return call


def _cloud_call(cascade: Cascade) -> _Call:
    def call(prompt: str) -> CallTimes:
        start = perf_counter()
        answer = cascade(prompt)
        total_s = perf_counter() - start
        if answer.source is not Source.CLOUD:
            raise BenchmarkError(f"expected an answer from the cloud, got {answer.error}")
        return CallTimes(total_s)

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
) -> dict[str, list[CallTimes]]:
    times: dict[str, list[CallTimes]] = {name: [] for name in calls}
    for i in range(-_WARM_UP, count):
        for name, call in calls.items():
            one = call(prompts[i % len(prompts)])
            if i >= 0:
                times[name].append(one)
    return times


def _summarise(calls: Sequence[CallTimes]) -> dict[str, Any]:
    """Return the percentiles of the times, and the mean number of tokens."""
    if math.isnan(calls[0].tokens):
        return {"answer": percentiles_ms([call.total_s for call in calls])}
    return {
        "first_token": percentiles_ms([call.first_token_s for call in calls]),
        "further_token": percentiles_ms([call.per_token_s for call in calls]),
        "verdict": percentiles_ms([call.total_s for call in calls]),
        "tokens": fmean(call.tokens for call in calls),
    }
