"""Counts the decisions that change when a generation stops as soon as its deferral is certain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.figures import Figure
from benchmarks.language.promises.prompts import random_prompts
from benchmarks.language.promises.random_models import TOKEN_LIMIT, RandomModels
from edge_runtime.language import Decoder, Generation

_PROMPTS: Final = 50  # per call: they share threshold, token limit and batch size
_MOST_ROWS: Final = 16
_LEAST_EARLY: Final = 0.1
"""Least share of generations that must stop early for the comparison to mean anything."""
Pair = tuple[Generation, Generation]
"""A generation to its end, and the same one with the early stop."""


@dataclass
class Tally:
    """Counts of pairs of generations, run to their end and with the early stop.

    Attributes:
        pairs: Number of pairs.
        changed: Pairs with different decisions.
        other: Pairs that differ in more than length: in their tokens, or in their confidence
            though both ran to their ends.
        early: Generations that the stop ended.
        deferred: Generations that defer.
        saved: Tokens that the stop saved in deferred generations.
        deferred_tokens: Tokens of the deferred generations without the stop.
        tokens: Tokens of all generations without the stop.
    """

    pairs: int = 0
    changed: int = 0
    other: int = 0
    early: int = 0
    deferred: int = 0
    saved: int = 0
    deferred_tokens: int = 0
    tokens: int = 0

    def add(self, whole: Generation, stopped: Generation) -> None:
        """Count one pair."""
        self.pairs += 1
        self.changed += whole.defer != stopped.defer
        self.other += not _agree(whole, stopped)
        self.early += stopped.ended == "certain"
        self.tokens += whole.token_count
        if whole.defer:
            self.deferred += 1
            self.deferred_tokens += whole.token_count
            self.saved += whole.token_count - stopped.token_count


def _agree(whole: Generation, stopped: Generation) -> bool:
    if stopped.ended == "certain":
        return stopped.tokens == whole.tokens[: stopped.token_count]
    return (whole.tokens, whole.confidence) == (stopped.tokens, stopped.confidence)


def measure_certainty(models: RandomModels, generations: int) -> list[Figure]:
    """Count the decisions that the early stop changes, and the generations that it ends.

    Thresholds, token limits, batch sizes and prompts are drawn anew for every 50 generations of
    each graph.

    Args:
        models: The models and their bundles.
        generations: Least number of generations.
    """
    bundles = models.bundles()
    draws = np.random.default_rng(models.seed)
    each = math.ceil(generations / len(bundles))
    tallies = []
    for bundle in bundles.values():
        tally = Tally()
        for whole, stopped in _pairs(bundle, each, draws):
            tally.add(whole, stopped)
        tallies.append(tally)
    return _figures(
        tallies, f"{len(models.architectures)} architectures, {len(models.kinds)} confidences"
    )


def _pairs(bundle: Path, count: int, draws: np.random.Generator) -> Iterator[Pair]:
    with Decoder.open(bundle, threads=1) as decoder:
        for start in range(0, count, _PROMPTS):
            prompts = random_prompts(min(_PROMPTS, count - start), int(draws.integers(1 << 31)))
            settings: dict[str, Any] = {
                "max_new_tokens": int(draws.integers(1, TOKEN_LIMIT, endpoint=True)),
                "batch_size": int(draws.integers(1, _MOST_ROWS, endpoint=True)),
            }
            probe = decoder.generate(prompts, stop_when_certain=False, **settings)
            confidences = np.array([answer.confidence for answer in probe])
            settings["threshold"] = _draw_threshold(confidences, draws)
            whole = decoder.generate(prompts, stop_when_certain=False, **settings)
            yield from zip(whole, decoder.generate(prompts, **settings), strict=True)


def _draw_threshold(confidences: Any, draws: np.random.Generator) -> float:
    """Return a threshold next to a confidence, where rounding decides, or anywhere in between."""
    if draws.random() < 0.5:  # noqa: PLR2004 - a coin
        return float(draws.uniform(confidences.min(), confidences.max()))
    value = np.float32(draws.choice(confidences))
    direction = draws.choice([-np.inf, float(value), np.inf])
    return float(np.nextafter(value, np.float32(direction)))


def _figures(tallies: list[Tally], scope: str) -> list[Figure]:
    pairs = sum(tally.pairs for tally in tallies)
    deferred = sum(tally.deferred for tally in tallies)
    return [
        Figure.of(
            "certain deferral: changed decisions",
            [tally.changed for tally in tallies],
            0,
            "",
            f"of {pairs:,} generations of {len(tallies)} exported graphs ({scope}), each run "
            f"to its end and with the stop, at random thresholds; {deferred:,} defer",
            statistic="sum",
        ),
        Figure.of(
            "certain deferral: different tokens or confidences",
            [tally.other for tally in tallies],
            0,
            "",
            "apart from the tokens that a stopped generation lacks at its end",
            statistic="sum",
        ),
        Figure.of(
            "certain deferral: share of generations stopped",
            [(tally.early, tally.pairs) for tally in tallies],
            _LEAST_EARLY,
            "",
            f"{sum(tally.early for tally in tallies):,} of {pairs:,}; a small share would "
            "prove nothing",
            at_least=True,
            statistic="share",
        ),
    ]
