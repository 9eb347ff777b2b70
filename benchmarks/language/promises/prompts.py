"""Random prompts, and a measure of the answers' variety; free of torch."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

_MOST_WORDS: Final = 40
_TEXT: Final = (
    "what how why many is are was of in on to for from the a my each and not but at by with "
    "balance card flight city shelf book story garden river winter question answer number "
    "red green blue small large early late 7 12 345 1,000 (sure?) day; night: yes! no. "
    "naïve übermorgen café Ελλάδα 天気 привет \N{UMBRELLA} \N{GRINNING FACE}"
)
_WORDS: Final = _TEXT.split()


def random_prompts(count: int, seed: int) -> list[str]:
    """Return texts of 1 to 40 words, in no order of length.

    Args:
        count: Number of texts.
        seed: Seed of the draws.
    """
    draws = np.random.default_rng(seed)
    return [
        " ".join(draws.choice(_WORDS, draws.integers(1, _MOST_WORDS, endpoint=True)))
        for _ in range(count)
    ]


def describe_variety(answers: list[tuple[int, ...]]) -> str:
    """Describe how much answers differ: a model that repeats itself proves little.

    Args:
        answers: Tokens of each answer.
    """
    tokens = {token for answer in answers for token in answer}
    shares = [len(set(answer)) / len(answer) for answer in answers if answer]
    share = math.fsum(shares) / len(shares) if shares else math.nan
    return (
        f"{len(set(answers)):,} different answers of {len(tokens)} different tokens; within an "
        f"answer {share:.0%} of the tokens are different"
    )
