"""Counts the tokens that the early stop saves in deferred generations of trained models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.figures import Figure
from benchmarks.language.promises.certainty import Tally
from benchmarks.language.promises.corpora import (
    RATIO,
    STORIES,
    TASKS,
    Corpus,
    stories_corpus,
    task_corpus,
)
from benchmarks.language.promises.prompts import describe_variety
from edge_runtime.language import Decoder, Generation
from export.calibration import Sample, TargetDeferral
from train.errors import DataError

RATIOS: Final = (0.1, 0.3, 0.5)
Tallies = dict[tuple[str, float], Tally]
"""Tallies by confidence and deferral ratio."""


def measure_savings(folder: Path, seed: int, limit: int) -> list[Figure]:
    """Return the share of tokens saved with every confidence, for two tasks and for stories.

    Args:
        folder: Folder for models and bundles.
        seed: Seed of the models to train.
        limit: Most test prompts of a corpus.
    """
    corpora: dict[str, Callable[[], Corpus]] = {
        name: partial(task_corpus, name, folder / name, seed, limit) for name in TASKS
    }
    corpora[STORIES] = partial(stories_corpus, folder / STORIES, limit)
    figures: list[Figure] = []
    for name, make in corpora.items():
        try:
            corpus = make()
        except DataError as error:
            figures.append(Figure(f"{name}: tokens saved", None, None, "", str(error)))
            continue
        figures += measure_corpus(corpus)
    return figures


def measure_corpus(corpus: Corpus) -> list[Figure]:
    """Return a corpus's changed decisions, and each confidence's saving at each ratio."""
    tallies: Tallies = {}
    answers: list[Generation] = []
    for kind, bundle in corpus.bundles.items():
        answers, by_ratio = _count(bundle, corpus)
        tallies |= {(kind, ratio): tally for ratio, tally in by_ratio.items()}
    variety = describe_variety([answer.tokens for answer in answers])
    return [
        _changed(corpus, tallies, variety),
        *(_saved(corpus.name, kind, ratio, tally) for (kind, ratio), tally in tallies.items()),
    ]


def _count(bundle: Path, corpus: Corpus) -> tuple[list[Generation], dict[float, Tally]]:
    """Generate whole answers once, and stopped ones at every ratio's threshold."""
    tallies = {}
    with Decoder.open(bundle, threads=1) as decoder:
        calibration = decoder.generate(corpus.calibration, stop_when_certain=False)
        whole = decoder.generate(corpus.test, stop_when_certain=False)
        for ratio in RATIOS:
            threshold = _threshold(decoder, calibration, ratio)
            stopped = decoder.generate(corpus.test, threshold=threshold)
            tallies[ratio] = Tally()
            for one, other in zip(whole, stopped, strict=True):
                # The graph's own comparison, in its own type.
                defer = not np.float32(one.confidence) >= np.float32(threshold)
                tallies[ratio].add(dataclasses.replace(one, defer=defer), other)
    return whole, tallies


def _threshold(decoder: Decoder, calibration: list[Generation], ratio: float) -> float:
    if ratio == RATIO and decoder.metadata.calibration is not None:
        return decoder.threshold
    confidence = np.array([answer.confidence for answer in calibration], np.float32)
    sample = Sample(confidence, np.zeros(len(confidence), np.bool_))
    return float(TargetDeferral(ratio).choose(sample).threshold)


def _changed(corpus: Corpus, tallies: Tallies, variety: str) -> Figure:
    pairs = sum(tally.pairs for tally in tallies.values())
    return Figure.of(
        f"{corpus.name}: changed decisions",
        [tally.changed for tally in tallies.values()],
        0,
        "",
        f"of {pairs:,} generations: {len(corpus.test):,} prompts, {len(corpus.bundles)} "
        f"confidences, {len(RATIOS)} thresholds; {corpus.model}; {variety}",
        statistic="sum",
    )


def _saved(name: str, kind: str, ratio: float, tally: Tally) -> Figure:
    share = tally.saved / tally.tokens if tally.tokens else 0.0
    return Figure.of(
        f"{name}, {kind} at {ratio:.0%}: tokens saved",
        [(100 * tally.saved, tally.deferred_tokens)],
        None,
        "%",
        f"{tally.saved:,} of the {tally.deferred_tokens:,} tokens of {tally.deferred:,} deferred "
        f"generations ({share:.1%} of all tokens); {tally.early:,} of {tally.pairs:,} stopped",
        statistic="share",
    )
