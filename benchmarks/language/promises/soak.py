"""Generates over and over, then at length, and tells what memory it holds meanwhile.

A process of its own, so that nothing else lives in the memory that is watched. Run as
`python -m benchmarks.language.promises.soak BUNDLE SEED GENERATIONS WORDS ARENA`: a bundle of a random
model, how many generations, how many words each long prompt has, and 1 where ONNX Runtime may keep
memory between runs. Prints a line of JSON a look at the memory: what was done, how often, the
resident bytes and the most there were.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from typing import Any, Final

from benchmarks.language.promises.prompts import random_prompts
from benchmarks.processes import peak_resident_bytes, resident_bytes
from edge_runtime.language import Decoder

EVERY: Final = 10
"""Generations between two looks at the memory."""
LONG: Final = 6
"""Batches of long prompts."""
_CYCLES: Final = 2
"""Of five ways by ten prompts; then the same prompts come again."""
_ROWS: Final = 16
_LONG_TOKENS: Final = 200
_UNSURE: Final = -4.0


def soak(bundle: str, seed: int, generations: int, words: int, *, arena: bool) -> None:
    """Generate so often, each ten in another way, and then with long prompts."""
    with Decoder.open(bundle, threads=1, arena=arena) as decoder:
        ways = _ways(decoder)
        for turn in range(generations // EVERY):
            # Whatever comes after the first hundred came before: what grows then is never freed.
            asked = random_prompts(EVERY, seed + turn // len(ways) % _CYCLES)
            ways[turn % len(ways)](asked)
            _tell("ordinary", (turn + 1) * EVERY)
        for turn in range(1, LONG + 1):
            decoder.generate(_long_prompts(seed, words), _LONG_TOKENS, stop_when_certain=False)
            _tell("long", turn)
    del ways
    _tell("closed", 0)


def _ways(decoder: Decoder) -> list[Callable[[list[str]], Any]]:
    """Return what callers do: whole answers, stopped ones, streams, and streams that are left."""
    return [
        lambda prompts: decoder.generate(prompts, stop_when_certain=False),
        lambda prompts: decoder.generate(prompts, threshold=_UNSURE, batch_size=3),
        lambda prompts: decoder.generate(prompts, compact=True, stop=("a",)),
        lambda prompts: [list(decoder.stream(prompt)) for prompt in prompts],
        lambda prompts: [next(decoder.stream(prompt), None) for prompt in prompts],
    ]


def _long_prompts(seed: int, words: int) -> list[str]:
    some = " ".join(random_prompts(words, seed)).split()
    return [" ".join(some[row : row + words]) for row in range(_ROWS)]


def _tell(what: str, done: int) -> None:
    gc.collect()  # what waits to be collected is no leak
    print(json.dumps([what, done, resident_bytes(), peak_resident_bytes()]), flush=True)


if __name__ == "__main__":
    soak(
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
        arena=sys.argv[5] == "1",
    )
