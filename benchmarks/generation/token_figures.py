"""Measures whether exported graphs say what transformers says, and are as sure as numpy finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure
from benchmarks.generation.made import MOST_TOKENS, RandomModels
from benchmarks.generation.models import WINDOW
from benchmarks.generation.prompts import random_prompts, variety
from benchmarks.generation.reference import Exact, Split, Tokens, greedy_answers, splits
from edge_runtime.decoding import Decoder, Generation
from train.models import open_language_model
from train.models.untrained import Architecture

_TOLERANCE: Final = 1e-4
_ROUNDING: Final = 1e-4
"""Logits of these models are about 10; float32 leaves their differences uncertain by this."""
Said = dict[str, list[Generation]]
"""Confidence -> the answers of its graph."""


def token_figures(models: RandomModels, count: int) -> list[Figure]:
    """Return two figures of each architecture: its tokens and its confidences.

    Args:
        models: The models and their bundles.
        count: How many prompts each is asked.
    """
    prompts = random_prompts(count, models.seed + 1)
    bundles = models.bundles()
    figures: list[Figure] = []
    for architecture in models.architectures:
        said = {kind: _answers(bundles[architecture, kind], prompts) for kind in models.kinds}
        checkpoint = models.checkpoint(architecture)
        wanted = greedy_answers(open_language_model(checkpoint), prompts, MOST_TOKENS)
        exact = Exact(open_language_model(checkpoint))
        figures.append(_tokens(architecture, prompts, said, wanted, exact))
        figures.append(_confidences(architecture, prompts, said, exact))
    return figures


def _answers(bundle: Path, prompts: Sequence[str]) -> list[Generation]:
    with Decoder.open(bundle, threads=1) as decoder:
        return decoder.generate(prompts, stop_when_certain=False)


def _tokens(
    architecture: Architecture,
    prompts: Sequence[str],
    said: Said,
    wanted: Sequence[Tokens],
    exact: Exact,
) -> Figure:
    parted = {
        kind: splits(prompts, [answer.tokens for answer in answers], wanted)
        for kind, answers in said.items()
    }
    ended = sum(len(answer) < MOST_TOKENS for answer in wanted)
    window = f", a window of {WINDOW}" if architecture == "gemma2" else ""
    return Figure.of(
        f"{architecture}: answers other than transformers' generate",
        [len(found) for found in parted.values()],
        0,
        "",
        f"{len(prompts)} prompts of each of {len(said)} graphs{window}; {variety(list(wanted))}; "
        f"{ended} ended before {MOST_TOKENS}{_ties(parted, exact)}",
        statistic="sum",
    )


def _ties(parted: dict[str, list[Split]], exact: Exact) -> str:
    """Say whether rounding explains where answers part."""
    gaps = [exact.gap(*split) for found in parted.values() for split in found]
    if not gaps:
        return ""
    near = sum(gap <= _ROUNDING for gap in gaps)
    return (
        f"; in {near} of the {len(gaps)} the two greatest logits tie within float32 rounding "
        f"(in float64 the widest are {max(gaps):.2g} apart)"
    )


def _confidences(
    architecture: Architecture, prompts: Sequence[str], said: Said, exact: Exact
) -> Figure:
    errors = {
        kind: max(
            _error(exact, prompt, kind, answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        )
        for kind, answers in said.items()
    }
    each = ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items())
    return Figure.of(
        f"{architecture}: greatest error of a confidence",
        list(errors.values()),
        _TOLERANCE,
        "",
        f"against numpy in float64 behind a float64 model, {len(prompts)} answers each: {each}",
        statistic="greatest",
    )


def _error(exact: Exact, prompt: str, kind: str, answer: Generation) -> float:
    error = abs(answer.confidence - exact.confidences(prompt, answer.tokens, (kind,))[kind])
    return math.inf if math.isnan(error) else error
