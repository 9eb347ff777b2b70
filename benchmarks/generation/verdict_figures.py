"""Measures the time to a verdict: what the edge answers, what it defers, what the cloud says."""

from __future__ import annotations

from math import isnan
from statistics import fmean
from typing import Final

from benchmarks.figure import Figure
from benchmarks.generation.command import GenerationSettings
from benchmarks.generation.models import Made
from benchmarks.generation_latency import WORDS, Plan, Timed, time_each_kind
from benchmarks.server import running_server

_PROMPTS: Final = 10
_PROMPT_TOKENS: Final = 16
ANSWER_TOKENS: Final = 64
_DEADLINE_S: Final = 60.0


def verdict_figures(made: Made, settings: GenerationSettings) -> list[Figure]:
    """Return the times of each kind of call; M_L is the same model, served by `cloud_stub`."""
    prompts = [
        made.request(_PROMPT_TOKENS, 1, settings.seed + number).text for number in range(_PROMPTS)
    ]
    line = ["cloud_stub", "--checkpoint", str(made.checkpoint), "--port", "0", "--threads", "1"]
    with running_server([*line, "--max-new-tokens", str(ANSWER_TOKENS)]) as address:
        plan = Plan(
            bundle=made.bundle,
            prompts=prompts,
            calls=settings.rounds,
            threads=1,
            cloud=address,
            deadline_s=_DEADLINE_S,
        )
        _, timed = time_each_kind(plan)
    return [_figure(WORDS[kind], calls, made.size) for kind, calls in timed.items()]


def _figure(words: str, calls: list[Timed], size: str) -> Figure:
    tokens = fmean(call.tokens for call in calls)
    counted = "" if isnan(tokens) else f"{tokens:.1f} tokens, "
    return Figure.of(
        f"time to verdict or text: {words}",
        [call.total_s * 1e3 for call in calls],
        None,
        "ms",
        f"{counted}{_PROMPT_TOKENS} of prompt, untrained weights, {size}, 1 thread",
    )
