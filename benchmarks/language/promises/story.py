"""Compares the story that the exported `stories260K` generates with its published sample."""

from __future__ import annotations

from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.language.promises.corpora import STORIES, stories_checkpoint
from edge_runtime import contract
from edge_runtime.language import Decoder
from export.commands.language import LanguageSettings
from train.errors import DataError

OPENING: Final = "Once"
"""The sample had no prompt, but ours needs a token."""

# doc/stories260K.md of github.com/karpathy/llama2.c, at temperature 0: <s> and 256 tokens.
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
"""Tokens of the sample, without the <s> that begins it."""


def measure_story(folder: Path) -> list[Figure]:
    """Count the characters that differ from the published sample.

    Args:
        folder: Folder for checkpoint and bundle.
    """
    name = f"{STORIES}: characters that differ from the published sample"
    try:
        checkpoint = stories_checkpoint(folder)
    except DataError as error:
        return [Figure(name, None, 0, "", str(error))]
    bundle = folder / contract.NEG_ENTROPY
    if not bundle.exists():
        LanguageSettings(checkpoint=checkpoint, threshold=0.0, out=bundle).run()
    with Decoder.open(bundle, threads=1) as decoder:
        (answer,) = decoder.generate([OPENING], TOKENS - 1, stop_when_certain=False)
    story = f"{OPENING} {answer.text.strip()}"
    pairs = zip_longest(story, PUBLISHED)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return [
        Figure(
            name,
            float(max(len(story), len(PUBLISHED)) - same),
            0,
            "",
            f"of {len(PUBLISHED)}; greedy, {OPENING!r} and {answer.token_count} more tokens, on "
            "the device",
        )
    ]
