"""Counts the tokens that the certain-deferral stop spares trained models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
from benchmarks.language.promises.prompts import variety
from edge_runtime.language import Decoder, Generation
from export.calibration import Sample, TargetDeferral
from train.errors import DataError

RATIOS: Final = (0.1, 0.3, 0.5)
Counted = dict[tuple[str, float], Tally]
"""By confidence and deferral ratio."""


def saving_figures(folder: Path, seed: int, most: int) -> list[Figure]:
    """Return what the stop saves of every confidence's tokens, for two tasks and for stories.

    Args:
        folder: Where models and bundles go.
        seed: Of the models that are taught.
        most: The most prompts of a corpus that are counted.
    """
    corpora: dict[str, Callable[[], Corpus]] = {
        name: lambda name=name: task_corpus(name, folder / name, seed, most)  # type: ignore[misc]  # a default binds the name
        for name in TASKS
    }
    corpora[STORIES] = lambda: stories_corpus(folder / STORIES, most)
    figures: list[Figure] = []
    for name, made in corpora.items():
        try:
            corpus = made()
        except DataError as error:
            figures.append(Figure(f"{name}: tokens saved", None, None, "", str(error)))
            continue
        figures += corpus_figures(corpus)
    return figures


def corpus_figures(corpus: Corpus) -> list[Figure]:
    """Return the changed decisions of a corpus, and what each confidence saves at each ratio."""
    counted: Counted = {}
    answers: list[Generation] = []
    for kind, bundle in corpus.bundles.items():
        answers, tallies = _answered(bundle, corpus)
        counted |= {(kind, ratio): tally for ratio, tally in tallies.items()}
    said = variety([answer.tokens for answer in answers])
    return [
        _changed(corpus, counted, said),
        *(_saved(corpus.name, *item) for item in counted.items()),
    ]


def _answered(bundle: Path, corpus: Corpus) -> tuple[list[Generation], dict[float, Tally]]:
    """Answer the prompts to their ends once, and with the stop at every ratio's threshold."""
    found = {}
    with Decoder.open(bundle, threads=1) as decoder:
        tried = decoder.generate(corpus.calibration, stop_when_certain=False)
        whole = decoder.generate(corpus.test, stop_when_certain=False)
        for ratio in RATIOS:
            threshold = _threshold(decoder, tried, ratio)
            ended = decoder.generate(corpus.test, threshold=threshold)
            found[ratio] = Tally()
            for one, other in zip(whole, ended, strict=True):
                # The graph's own comparison, in its own type.
                defer = not np.float32(one.confidence) >= np.float32(threshold)
                found[ratio].add(dataclasses.replace(one, defer=defer), other)
    return whole, found


def _threshold(decoder: Decoder, tried: list[Generation], ratio: float) -> float:
    if ratio == RATIO and decoder.metadata.calibration is not None:
        return decoder.threshold
    confidence = np.array([answer.confidence for answer in tried], np.float32)
    sample = Sample(confidence, np.zeros(len(confidence), np.bool_))
    return float(TargetDeferral(ratio).choose(sample).threshold)


def _changed(corpus: Corpus, counted: Counted, said: str) -> Figure:
    pairs = sum(tally.pairs for tally in counted.values())
    return Figure.of(
        f"{corpus.name}: changed decisions",
        [tally.changed for tally in counted.values()],
        0,
        "",
        f"of {pairs:,} generations: {len(corpus.test):,} prompts, {len(corpus.bundles)} "
        f"confidences, {len(RATIOS)} thresholds; {corpus.model}; {said}",
        statistic="sum",
    )


def _saved(name: str, case: tuple[str, float], tally: Tally) -> Figure:
    kind, ratio = case
    of_all = tally.spared / tally.told if tally.told else 0.0
    return Figure.of(
        f"{name}, {kind} at {ratio:.0%}: tokens saved",
        [(100 * tally.spared, tally.had)],
        None,
        "%",
        f"{tally.spared:,} of the {tally.had:,} tokens of {tally.deferred:,} deferred generations "
        f"({of_all:.1%} of all tokens); {tally.early:,} stopped, of {tally.pairs:,}",
        statistic="share",
    )
