"""Counts decisions that change where a generation ends once its deferral is certain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.figures import Figure
from benchmarks.language.promises.prompts import random_prompts
from benchmarks.language.promises.random_models import MOST_TOKENS, RandomModels
from edge_runtime.language import Decoder, Generation

_PROMPTS: Final = 50  # of a call: they share threshold, limit and size of batches
_MOST_ROWS: Final = 16
_LEAST_EARLY: Final = 0.1
"""Share of the generations that must end early, for their decisions to say something."""
Pair = tuple[Generation, Generation]
"""A generation to its end, and the same with the stop."""


@dataclass
class Tally:
    """What pairs of generations have in common, and what not.

    Attributes:
        pairs: How many.
        changed: Of them, those with another decision.
        other: Those where the stop changed more than the length: other tokens, or another
            confidence though both ran to their ends.
        early: Those that the stop ended.
        deferred: Those that defer.
        spared: Tokens that deferred generations were spared.
        had: Tokens that they have without the stop.
        told: Tokens of all generations without the stop.
    """

    pairs: int = 0
    changed: int = 0
    other: int = 0
    early: int = 0
    deferred: int = 0
    spared: int = 0
    had: int = 0
    told: int = 0

    def add(self, whole: Generation, ended: Generation) -> None:
        """Count one pair."""
        is_early = ended.ended == "certain"
        self.pairs += 1
        self.changed += whole.defer != ended.defer
        self.other += not _is_same(whole, ended)
        self.early += is_early
        self.told += whole.token_count
        if whole.defer:
            self.deferred += 1
            self.had += whole.token_count
            self.spared += whole.token_count - ended.token_count


def _is_same(whole: Generation, ended: Generation) -> bool:
    if ended.ended == "certain":
        return ended.tokens == whole.tokens[: ended.token_count]
    return (whole.tokens, whole.confidence) == (ended.tokens, ended.confidence)


def certainty_figures(models: RandomModels, generations: int) -> list[Figure]:
    """Return how many decisions the stop changes, and what shows that it was at work.

    Thresholds, limits, sizes of batches and prompts are drawn anew for every 50 generations of
    each graph.

    Args:
        models: The models and their bundles.
        generations: How many at least.
    """
    bundles = models.bundles()
    draws = np.random.default_rng(models.seed)
    each = math.ceil(generations / len(bundles))
    tallies = []
    for bundle in bundles.values():
        tally = Tally()
        for whole, ended in _pairs(bundle, each, draws):
            tally.add(whole, ended)
        tallies.append(tally)
    return _figures(
        tallies, f"{len(models.architectures)} architectures, {len(models.kinds)} confidences"
    )


def _pairs(bundle: Path, count: int, draws: np.random.Generator) -> Iterator[Pair]:
    with Decoder.open(bundle, threads=1) as decoder:
        for at in range(0, count, _PROMPTS):
            prompts = random_prompts(min(_PROMPTS, count - at), int(draws.integers(1 << 31)))
            how: dict[str, Any] = {
                "max_new_tokens": int(draws.integers(1, MOST_TOKENS, endpoint=True)),
                "batch_size": int(draws.integers(1, _MOST_ROWS, endpoint=True)),
            }
            tried = decoder.generate(prompts, stop_when_certain=False, **how)
            how["threshold"] = _threshold(np.array([one.confidence for one in tried]), draws)
            whole = decoder.generate(prompts, stop_when_certain=False, **how)
            yield from zip(whole, decoder.generate(prompts, **how), strict=True)


def _threshold(confidences: Any, draws: np.random.Generator) -> float:
    """Return one next to a confidence, where rounding decides, or anywhere between them."""
    if draws.random() < 0.5:  # noqa: PLR2004 - a coin
        return float(draws.uniform(confidences.min(), confidences.max()))
    value = np.float32(draws.choice(confidences))
    towards = draws.choice([-np.inf, float(value), np.inf])
    return float(np.nextafter(value, np.float32(towards)))


def _figures(tallies: list[Tally], of: str) -> list[Figure]:
    pairs = sum(tally.pairs for tally in tallies)
    deferred = sum(tally.deferred for tally in tallies)
    return [
        Figure.of(
            "certain deferral: changed decisions",
            [tally.changed for tally in tallies],
            0,
            "",
            f"of {pairs:,} generations of {len(tallies)} exported graphs ({of}), each to its end "
            f"and with the stop, at random thresholds; {deferred:,} defer",
            statistic="sum",
        ),
        Figure.of(
            "certain deferral: other tokens or confidences",
            [tally.other for tally in tallies],
            0,
            "",
            "but for the tokens that a stopped generation lacks at its end",
            statistic="sum",
        ),
        Figure.of(
            "certain deferral: share of generations stopped",
            [(tally.early, tally.pairs) for tally in tallies],
            _LEAST_EARLY,
            "",
            f"{sum(tally.early for tally in tallies):,} of {pairs:,}; were there few, nothing "
            "would be shown",
            at_least=True,
            statistic="share",
        ),
    ]
