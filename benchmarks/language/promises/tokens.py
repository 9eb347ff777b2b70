"""Compares exported graphs with transformers' tokens, and with confidences in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.language.promises.prompts import describe_variety, random_prompts
from benchmarks.language.promises.random_models import TOKEN_LIMIT, RandomModels
from benchmarks.language.promises.reference import (
    ExactModel,
    Split,
    Tokens,
    answer_greedily,
    find_splits,
)
from edge_runtime.language import Decoder, Generation
from train.models import open_language_model
from train.models.untrained import Architecture

_TOLERANCE: Final = 1e-4
_ROUNDING: Final = 2e-5
"""Uncertainty in float32 of the difference of two logits of these models: a rounding is about 1e-6
at the largest logits, and two layers accumulate some."""


@dataclass(frozen=True)
class _Comparison:
    """The answers of one architecture's graphs and of its references.

    Attributes:
        architecture: Name of the architecture.
        prompts: The prompts.
        ours: Answers of its graph, by confidence.
        reference: Answers of transformers.
        window: Positions that some of its layers see; None if all layers see everything.
        exact: The model in float64.
    """

    architecture: Architecture
    prompts: Sequence[str]
    ours: dict[str, list[Generation]]
    reference: Sequence[Tokens]
    window: int | None
    exact: ExactModel


def measure_tokens(models: RandomModels, count: int) -> list[Figure]:
    """Return two figures of each architecture: its tokens and its confidences.

    Args:
        models: The models and their bundles.
        count: Number of prompts for each graph.
    """
    prompts = random_prompts(count, models.seed + 1)
    figures: list[Figure] = []
    for architecture in models.architectures:
        comparison = _compare(models, architecture, prompts)
        figures += [_token_figure(comparison), _confidence_figure(comparison)]
    return figures


def _compare(
    models: RandomModels, architecture: Architecture, prompts: Sequence[str]
) -> _Comparison:
    bundles = models.bundles()
    model = open_language_model(models.checkpoint(architecture))
    return _Comparison(
        architecture,
        prompts,
        {kind: _generate(bundles[architecture, kind], prompts) for kind in models.kinds},
        answer_greedily(model, prompts, TOKEN_LIMIT),
        getattr(model.model.config, "sliding_window", None),
        ExactModel(model),
    )


def _generate(bundle: Path, prompts: Sequence[str]) -> list[Generation]:
    with Decoder.open(bundle, threads=1) as decoder:
        return decoder.generate(prompts, stop_when_certain=False)


def _token_figure(comparison: _Comparison) -> Figure:
    splits = {
        kind: find_splits(
            comparison.prompts, [answer.tokens for answer in answers], comparison.reference
        )
        for kind, answers in comparison.ours.items()
    }
    ended = sum(len(answer) < TOKEN_LIMIT for answer in comparison.reference)
    window = f", layers with a window of {comparison.window}" if comparison.window else ""
    return Figure.of(
        f"{comparison.architecture}: answers that differ from transformers' generate",
        [len(found) for found in splits.values()],
        0,
        "",
        f"{len(comparison.prompts)} prompts for each of {len(comparison.ours)} graphs{window}; "
        f"{describe_variety(list(comparison.reference))}; {ended} ended before {TOKEN_LIMIT} "
        f"tokens{_describe_ties(splits, comparison.exact)}",
        statistic="sum",
    )


def _describe_ties(splits: dict[str, list[Split]], exact: ExactModel) -> str:
    """Describe whether rounding explains the differences; empty if there are none."""
    gaps = [exact.gap(*split) for found in splits.values() for split in found]
    if not gaps:
        return ""
    near = sum(gap <= _ROUNDING for gap in gaps)
    return (
        f"; in {near} of the {len(gaps)} the two largest logits tie within float32 rounding "
        f"(the largest gap in float64 is {max(gaps):.2g})"
    )


def _confidence_figure(comparison: _Comparison) -> Figure:
    errors = {
        kind: max(
            _error(comparison.exact, kind, *pair)
            for pair in zip(comparison.prompts, answers, strict=True)
        )
        for kind, answers in comparison.ours.items()
    }
    listed = ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items())
    return Figure.of(
        f"{comparison.architecture}: largest error of a confidence",
        list(errors.values()),
        _TOLERANCE,
        "",
        f"against numpy in float64 on the output of the model in float64, "
        f"{len(comparison.prompts)} answers each: {listed}",
        statistic="greatest",
    )


def _error(exact: ExactModel, kind: str, prompt: str, answer: Generation) -> float:
    expected = exact.confidences(prompt, answer.tokens, (kind,))[kind]
    error = abs(answer.confidence - expected)
    return math.inf if math.isnan(error) else error
