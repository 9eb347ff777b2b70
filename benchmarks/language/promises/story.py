"""Compares what the exported `stories260K` tells with its published sample."""

from __future__ import annotations

from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Final

# MERGEDOC benchmarks/decoding/published_story.py: 'What the published `stories260K` tells.'
from benchmarks.figures import Figure
from benchmarks.language.promises.corpora import STORIES, stories_checkpoint
from edge_runtime import contract
from edge_runtime.language import Decoder
from export.commands.language import LanguageSettings
from train.errors import DataError

OPENING: Final = "Once"
"""A prompt needs a token of its own; the sample had none."""

# doc/stories260K.md of github.com/karpathy/llama2.c, at temperature 0: the begin and 256 tokens.
PUBLISHED: Final = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She "
    'said, "I want to play with your ball, but I can\'t find it."\n'
    "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to "
    'do."\n'
    "Lily didn't want to help her mom, so she said, \"I'm sorry, mom. I didn't know what to do.\" "
    "Her mom said, \"Don't worry, Lily. We can help you."
)
TOKENS: Final = 256
"""Of the sample, its begin not counted."""


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
