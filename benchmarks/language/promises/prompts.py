"""Random prompts, and how much the answers to them differ; free of torch."""

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
        count: How many.
        seed: Which.
    """
    draws = np.random.default_rng(seed)
    return [
        " ".join(draws.choice(_WORDS, draws.integers(1, _MOST_WORDS, endpoint=True)))
        for _ in range(count)
    ]


def variety(answers: list[tuple[int, ...]]) -> str:
    """Return in words how much answers differ: a model that repeats itself proves little.

    Args:
        answers: Tokens of each.
    """
    tokens = {token for answer in answers for token in answer}
    shares = [len(set(answer)) / len(answer) for answer in answers if answer]
    share = math.fsum(shares) / len(shares) if shares else math.nan
    return (
        f"{len(set(answers)):,} different answers of {len(tokens)} different tokens, of an "
        f"answer's own tokens {share:.0%} are different"
    )
