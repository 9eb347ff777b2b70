"""Measures whether a process that goes on generating holds more and more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.commands.language import WARM_UP
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.language.promises.soak import LONG
from benchmarks.processes import NOT_COUNTED, resident_bytes

GENERATIONS: Final = 1_000
"""Generations by which every way of generating has seen every prompt."""
_SETTLED: Final = 2  # long batches after which ONNX Runtime keeps all that one needs
_WORDS: Final = 100
_GROWTH_MB: Final = 2.0  # were the caches of so many generations kept, it were dozens
_CLOSED_MB: Final = 5.0
_MB: Final = 1e6


class Look(NamedTuple):
    """One look at the memory.

    Attributes:
        what: What was done before.
        done: How often.
        resident: Bytes.
        peak: The most bytes there were.
    """

    what: str
    done: int
    resident: int
    peak: int


def memory_figures(
    bundle: Path, seed: int, generations: int = GENERATIONS, words: int = _WORDS
) -> list[Figure]:
    """Return what is held after many generations, after long ones, and after the end.

    Args:
        bundle: Of a random model.
        seed: Of the prompts.
        generations: How many, over 100.
        words: Of a long prompt.
    """
    if resident_bytes() is None:
        return [Figure("memory of generations", None, _GROWTH_MB, "MB", NOT_COUNTED)]
    kept = _looks(bundle, seed, generations, words, arena=True)
    returned = _looks(bundle, seed, WARM_UP, words, arena=False)
    return [_growth(kept), _long(kept), _closed(kept), _held(kept, "kept"), _held(returned, "off")]


def _growth(looks: list[Look]) -> Figure:
    ordinary = _of(looks, "ordinary")
    first = next(look for look in ordinary if look.done == WARM_UP)
    last = ordinary[-1]
    return Figure.of(
        f"memory, generations {first.done} to {last.done:,}",
        [(last.resident - first.resident) / _MB],
        _GROWTH_MB,
        "MB",
        f"resident {first.resident / _MB:.2f} and {last.resident / _MB:.2f} MB; whole answers, "
        "stopped ones, streams and streams that are left, one process",
        statistic="sum",
    )


def _long(looks: list[Look]) -> Figure:
    long = _of(looks, "long")
    first, last = long[_SETTLED - 1], long[-1]
    return Figure.of(
        f"memory, long batches {first.done} to {last.done}",
        [(last.resident - first.resident) / _MB],
        _GROWTH_MB,
        "MB",
        f"resident {first.resident / _MB:.2f} and {last.resident / _MB:.2f} MB, peak "
        f"{last.peak / _MB:.0f} MB: the caches of one are free for the next",
        statistic="sum",
    )


def _closed(looks: list[Look]) -> Figure:
    before, after = _of(looks, "ordinary")[-1], looks[-1]
    return Figure.of(
        "memory after the decoder closes over before the long batches",
        [(after.resident - before.resident) / _MB],
        _CLOSED_MB,
        "MB",
        f"resident {after.resident / _MB:.2f} and {before.resident / _MB:.2f} MB, between them up "
        f"to {after.peak / _MB:.0f} MB",
        statistic="sum",
    )


def _held(looks: list[Look], arena: str) -> Figure:
    before, after = _of(looks, "ordinary")[-1], _of(looks, "long")[-1]
    why = {
        "kept": "ONNX Runtime's arena keeps it for the next until the decoder closes",
        "off": "arena=False: memory that is free, which the system's allocator has not returned",
    }[arena]
    return Figure(
        f"memory held between long batches, arena {arena}",
        (after.resident - before.resident) / _MB,
        None,
        "MB",
        f"of a peak {(after.peak - before.resident) / _MB:.0f} MB over {LONG} batches; {why}",
    )


def _of(looks: list[Look], what: str) -> list[Look]:
    return [look for look in looks if look.what == what]


def _looks(bundle: Path, seed: int, generations: int, words: int, *, arena: bool) -> list[Look]:
    said = [str(bundle), str(seed), str(generations), str(words), str(int(arena))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.language.promises.soak", *said],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"the process of {generations} generations ended: {reason}")
    return [Look(*json.loads(line)) for line in done.stdout.splitlines()]
