"""Compares what the exported `stories260K` tells with its published sample."""

from __future__ import annotations

from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Final

from benchmarks.decoding.corpora import STORIES, stories_checkpoint
from benchmarks.decoding.published_story import PUBLISHED, TOKENS
from benchmarks.figure import Figure
from edge_runtime import contract
from edge_runtime.decoding import Decoder
from export.commands.language import LanguageSettings
from train.errors import DataError

OPENING: Final = "Once"
"""A prompt needs a token of its own; the sample had none."""


def story_figures(folder: Path) -> list[Figure]:
    """Return how many characters of the sample are told otherwise.

    Args:
        folder: Where checkpoint and bundle go.
    """
    name = f"{STORIES}: characters other than the published sample's"
    try:
        checkpoint = stories_checkpoint(folder)
    except DataError as error:
        return [Figure(name, None, 0, "", str(error))]
    bundle = folder / contract.NEG_ENTROPY
    if not bundle.exists():
        LanguageSettings(checkpoint=checkpoint, threshold=0.0, out=bundle).run()
    with Decoder.open(bundle, threads=1) as decoder:
        (answer,) = decoder.generate([OPENING], TOKENS - 1, stop_when_certain=False)
    told = f"{OPENING} {answer.text.strip()}"
    pairs = zip_longest(told, PUBLISHED)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return [
        Figure(
            name,
            float(max(len(told), len(PUBLISHED)) - same),
            0,
            "",
            f"of {len(PUBLISHED)}; greedy, {OPENING!r} and {answer.token_count} tokens more, on "
            "the device",
        )
    ]
