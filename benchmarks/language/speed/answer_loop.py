"""The loop of a process that generates tokens when asked, and says how long that took.

Requests and answers are lines of JSON on standard input and output. This module needs Python's own
library alone: a peer's environment holds the peer and not this project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from time import perf_counter_ns
from typing import IO, NamedTuple


class Request(NamedTuple):
    """What is to be generated.

    Attributes:
        way: Which of the process's ways is to do it.
        text: The prompt.
        tokens: The same as tokens.
        new_tokens: How many tokens to generate; an end-of-sequence token ends it earlier.
    """

    way: str
    text: str
    tokens: tuple[int, ...]
    new_tokens: int


class Said(NamedTuple):
    """What was generated.

    Attributes:
        tokens: The new tokens.
        confidence: Their mean negative entropy in nats, None where the way has no gate.
    """

    tokens: list[int]
    confidence: float | None = None


Way = Callable[[Request], Said]


def serve(opened: Callable[[], Mapping[str, Way]], distribution: str) -> None:
    """Answer requests until standard input ends.

    Args:
        opened: Loads the model; returns the ways to generate with it, by name.
        distribution: Whose version is told, e.g. `onnxruntime-genai`.
    """
    out = _own_output()
    ways = opened()
    _say(out, {"version": f"{distribution} {version(distribution)}"})
    for line in sys.stdin:
        request = Request(**json.loads(line))
        way = ways[request.way]
        begun = perf_counter_ns()
        said = way(request)
        took_ns = perf_counter_ns() - begun
        _say(out, {**said._asdict(), "took_ns": took_ns})


def _own_output() -> IO[str]:
    """Return standard output, and let libraries that print do so on standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _say(out: IO[str], content: object) -> None:
    out.write(json.dumps(content) + "\n")
    out.flush()
