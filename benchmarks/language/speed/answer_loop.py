"""The loop of an engine's process: it generates on request and reports the time that took.

Requests and answers are lines of JSON on standard input and output. This module imports Python's
own library alone: the environment of another engine has that engine and not this project.
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
    """One generation to do.

    Attributes:
        mode: The process's mode that is to do it.
        text: The prompt.
        tokens: The prompt's tokens.
        new_tokens: Number of tokens to generate; an end-of-sequence token ends it earlier.
    """

    mode: str
    text: str
    tokens: tuple[int, ...]
    new_tokens: int


class Output(NamedTuple):
    """A generated answer.

    Attributes:
        tokens: The new tokens.
        confidence: Their mean negative entropy in nats; None if the mode has no gate.
    """

    tokens: list[int]
    confidence: float | None = None


Mode = Callable[[Request], Output]


def serve(open_engine: Callable[[], Mapping[str, Mode]], distribution: str) -> None:
    """Answer requests until standard input ends.

    Args:
        open_engine: Function that loads the model and returns the engine's modes by name.
        distribution: Distribution whose version is reported, e.g. `onnxruntime-genai`.
    """
    out = _take_output()
    modes = open_engine()
    _write(out, {"version": f"{distribution} {version(distribution)}"})
    for line in sys.stdin:
        request = Request(**json.loads(line))
        mode = modes[request.mode]
        start = perf_counter_ns()
        output = mode(request)
        took_ns = perf_counter_ns() - start
        _write(out, {**output._asdict(), "took_ns": took_ns})


def _take_output() -> IO[str]:
    """Return standard output, and send what libraries print there to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _write(out: IO[str], content: object) -> None:
    out.write(json.dumps(content) + "\n")
    out.flush()
