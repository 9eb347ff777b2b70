"""Measures whether a process that keeps generating holds more and more memory.

The generations run in a process of their own, so that nothing else lives in the memory that is
watched: `python -m benchmarks.language.promises.memory BUNDLE SEED GENERATIONS WORDS ARENA`. WORDS
is the length of a long prompt, and ARENA is 1 if ONNX Runtime may keep memory between runs. The
process prints a line of JSON per sample: the work before it, how often it was done, the resident
bytes and their peak.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.commands.language import WARM_UP
from benchmarks.figures import Figure
from benchmarks.language.promises.prompts import random_prompts
from benchmarks.processes import NOT_COUNTED, output_lines, peak_resident_bytes, resident_bytes
from edge_runtime.language import Decoder

_EVERY: Final = 10  # generations between two samples
_CYCLES: Final = 2  # of five kinds of calls with ten prompts each; then the same prompts return
_LONG: Final = 6  # batches of long prompts
_SETTLED: Final = 2  # long batches after which ONNX Runtime keeps everything that one needs
_ROWS: Final = 16
_WORDS: Final = 100
_LONG_TOKENS: Final = 200
_UNSURE: Final = -4.0
_GROWTH_MB: Final = 2.0  # the caches of that many generations, if kept, would be dozens
_CLOSED_MB: Final = 5.0
_MB: Final = 1e6


class Sample(NamedTuple):
    """One sample of the memory.

    Attributes:
        work: The work before it: `ordinary`, `long` or `closed`.
        done: Number of times that it was done.
        resident: Resident bytes.
        peak: Most resident bytes so far.
    """

    work: str
    done: int
    resident: int
    peak: int


def measure_memory(
    bundle: Path, seed: int, generations: int, *, words: int = _WORDS
) -> list[Figure]:
    """Return the memory held after many generations, after long ones, and after the end.

    Args:
        bundle: Bundle of a random model.
        seed: Seed of the prompts.
        generations: Number of generations, more than 100.
        words: Words of a long prompt.
    """
    if resident_bytes() is None:
        return [Figure("memory of generations", None, _GROWTH_MB, "MB", NOT_COUNTED)]
    kept = _run(bundle, seed, generations, words, arena=True)
    freed = _run(bundle, seed, WARM_UP, words, arena=False)
    return [_growth(kept), _long(kept), _closed(kept), _held(kept, "kept"), _held(freed, "off")]


def _run(bundle: Path, seed: int, generations: int, words: int, *, arena: bool) -> list[Sample]:
    arguments = (bundle, seed, generations, words, int(arena))
    lines = output_lines("benchmarks.language.promises.memory", *arguments)
    return [Sample(*json.loads(line)) for line in lines]


def _growth(samples: list[Sample]) -> Figure:
    ordinary = _after(samples, "ordinary")
    first = next(sample for sample in ordinary if sample.done == WARM_UP)
    last = ordinary[-1]
    name = f"memory growth, generations {first.done} to {last.done:,}"
    calls = "whole answers, stopped ones, streams and abandoned streams, one process"
    return _difference(name, first, last, _GROWTH_MB, f"; {calls}")


def _long(samples: list[Sample]) -> Figure:
    long = _after(samples, "long")
    first, last = long[_SETTLED - 1], long[-1]
    name = f"memory growth, long batches {first.done} to {last.done}"
    peak = f", peak {last.peak / _MB:.0f} MB: the next batch reuses the caches of the last"
    return _difference(name, first, last, _GROWTH_MB, peak)


def _closed(samples: list[Sample]) -> Figure:
    before, after = _after(samples, "ordinary")[-1], samples[-1]
    name = "memory after the decoder closes minus before the long batches"
    peak = f", up to {after.peak / _MB:.0f} MB in between"
    return _difference(name, before, after, _CLOSED_MB, peak)


def _difference(name: str, first: Sample, last: Sample, limit_mb: float, note: str) -> Figure:
    return Figure.of(
        name,
        [(last.resident - first.resident) / _MB],
        limit_mb,
        "MB",
        f"resident {first.resident / _MB:.2f} and {last.resident / _MB:.2f} MB{note}",
        statistic="sum",
    )


def _held(samples: list[Sample], arena: str) -> Figure:
    before, after = _after(samples, "ordinary")[-1], _after(samples, "long")[-1]
    reason = {
        "kept": "ONNX Runtime's arena keeps it for the next until the decoder closes",
        "off": "arena=False: free memory that the system's allocator has not returned",
    }[arena]
    return Figure(
        f"memory held between long batches, arena {arena}",
        (after.resident - before.resident) / _MB,
        None,
        "MB",
        f"of a peak {(after.peak - before.resident) / _MB:.0f} MB over {_LONG} batches; {reason}",
    )


def _after(samples: list[Sample], work: str) -> list[Sample]:
    return [sample for sample in samples if sample.work == work]


def _generate(bundle: str, seed: int, generations: int, words: int, *, arena: bool) -> None:
    """Generate in the separate process, with a different kind of call for every ten prompts."""
    with Decoder.open(bundle, threads=1, arena=arena) as decoder:
        calls = _calls(decoder)
        for turn in range(generations // _EVERY):
            # After the first hundred, the same calls and prompts return: growth is a leak.
            prompts = random_prompts(_EVERY, seed + turn // len(calls) % _CYCLES)
            calls[turn % len(calls)](prompts)
            _print_sample("ordinary", (turn + 1) * _EVERY)
        for turn in range(1, _LONG + 1):
            decoder.generate(_long_prompts(seed, words), _LONG_TOKENS, stop_when_certain=False)
            _print_sample("long", turn)
    del calls
    _print_sample("closed", 0)


def _calls(decoder: Decoder) -> list[Callable[[list[str]], Any]]:
    """Return the usual calls: whole answers, stopped ones, streams, and abandoned streams."""
    return [
        lambda prompts: decoder.generate(prompts, stop_when_certain=False),
        lambda prompts: decoder.generate(prompts, threshold=_UNSURE, batch_size=3),
        lambda prompts: decoder.generate(prompts, compact=True, stop=("a",)),
        lambda prompts: [list(decoder.stream(prompt)) for prompt in prompts],
        lambda prompts: [next(decoder.stream(prompt), None) for prompt in prompts],
    ]


def _long_prompts(seed: int, words: int) -> list[str]:
    every = " ".join(random_prompts(words, seed)).split()
    return [" ".join(every[row : row + words]) for row in range(_ROWS)]


def _print_sample(work: str, done: int) -> None:
    gc.collect()  # garbage that waits for collection is no leak
    print(json.dumps([work, done, resident_bytes(), peak_resident_bytes()]), flush=True)


if __name__ == "__main__":
    _generate(sys.argv[1], *map(int, sys.argv[2:5]), arena=sys.argv[5] == "1")
