"""Measures whether exported graphs say what transformers says, and are as sure as numpy finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.language.promises.prompts import random_prompts, variety
from benchmarks.language.promises.random_models import MOST_TOKENS, RandomModels
from benchmarks.language.promises.reference import Exact, Split, Tokens, greedy_answers, splits
from edge_runtime.language import Decoder, Generation
from train.models import open_language_model
from train.models.untrained import Architecture

_TOLERANCE: Final = 1e-4
_ROUNDING: Final = 2e-5
"""By so much float32 leaves the difference of two logits of these models uncertain: a rounding is
about 1e-6 where they are greatest, and two layers gather some."""


@dataclass(frozen=True)
class _Asked:
    """One architecture, and what was said to its prompts.

    Attributes:
        architecture: Its name.
        prompts: What was asked.
        said: Confidence -> the answers of its graph.
        wanted: The answers of transformers.
        window: Positions that some of its layers see; None where all see everything.
        exact: The model in float64.
    """

    architecture: Architecture
    prompts: Sequence[str]
    said: dict[str, list[Generation]]
    wanted: Sequence[Tokens]
    window: int | None
    exact: Exact


def token_figures(models: RandomModels, count: int) -> list[Figure]:
    """Return two figures of each architecture: its tokens and its confidences.

    Args:
        models: The models and their bundles.
        count: How many prompts each is asked.
    """
    prompts = random_prompts(count, models.seed + 1)
    figures: list[Figure] = []
    for architecture in models.architectures:
        asked = _asked(models, architecture, prompts)
        figures += [_tokens(asked), _confidences(asked)]
    return figures


def _asked(models: RandomModels, architecture: Architecture, prompts: Sequence[str]) -> _Asked:
    bundles = models.bundles()
    model = open_language_model(models.checkpoint(architecture))
    return _Asked(
        architecture,
        prompts,
        {kind: _answers(bundles[architecture, kind], prompts) for kind in models.kinds},
        greedy_answers(model, prompts, MOST_TOKENS),
        getattr(model.model.config, "sliding_window", None),
        Exact(model),
    )


def _answers(bundle: Path, prompts: Sequence[str]) -> list[Generation]:
    with Decoder.open(bundle, threads=1) as decoder:
        return decoder.generate(prompts, stop_when_certain=False)


def _tokens(asked: _Asked) -> Figure:
    parted = {
        kind: splits(asked.prompts, [answer.tokens for answer in answers], asked.wanted)
        for kind, answers in asked.said.items()
    }
    ended = sum(len(answer) < MOST_TOKENS for answer in asked.wanted)
    window = f", layers with a window of {asked.window}" if asked.window else ""
    return Figure.of(
        f"{asked.architecture}: answers other than transformers' generate",
        [len(found) for found in parted.values()],
        0,
        "",
        f"{len(asked.prompts)} prompts of each of {len(asked.said)} graphs{window}; "
        f"{variety(list(asked.wanted))}; {ended} ended before {MOST_TOKENS} tokens"
        f"{_ties(parted, asked.exact)}",
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


def _confidences(asked: _Asked) -> Figure:
    errors = {
        kind: max(
            _error(asked.exact, kind, *one) for one in zip(asked.prompts, answers, strict=True)
        )
        for kind, answers in asked.said.items()
    }
    each = ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items())
    return Figure.of(
        f"{asked.architecture}: greatest error of a confidence",
        list(errors.values()),
        _TOLERANCE,
        "",
        f"against numpy in float64 behind the model in float64, {len(asked.prompts)} answers "
        f"each: {each}",
        statistic="greatest",
    )


def _error(exact: Exact, kind: str, prompt: str, answer: Generation) -> float:
    wanted = exact.confidences(prompt, answer.tokens, (kind,))[kind]
    error = abs(answer.confidence - wanted)
    return math.inf if math.isnan(error) else error
