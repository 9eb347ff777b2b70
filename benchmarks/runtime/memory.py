"""Measures whether a process that keeps calling a cascade holds more and more memory.

The calls run in a process of their own, so that nothing else lives in the memory that is watched:
`python -m benchmarks.runtime.memory BUNDLE SEED CALLS [ADDRESS]`. Without an address the edge
answers every call; with one every call is deferred. The process prints a line `CALLS BYTES` per
sample, then the number of answers by source.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.figures import Figure, slope
from benchmarks.processes import NOT_COUNTED, output_lines, resident_bytes, running_server
from benchmarks.untrained import SIDE, random_picture
from edge_runtime import Cascade

_LIMIT_BYTES: Final = 1.0
_WARM_UP: Final = 0.2
"""Share of the calls that do not count: allocators, threads and connections settle."""
_LEAST_SAMPLES: Final = 3
_SAMPLES: Final = 200
_DEADLINE_S: Final = 5.0


def measure_memory(bundle: Path, seed: int, edge_calls: int, deferred_calls: int) -> list[Figure]:
    """Watch the resident memory of a process of edge-answered calls, and of one of deferred calls.

    Args:
        bundle: Bundle of a SmallCNN.
        seed: Seed of the picture.
        edge_calls: Number of calls that the edge answers.
        deferred_calls: Number of calls that a server answers.
    """
    edge = _growth("memory growth per edge-answered call", bundle, seed, edge_calls)
    with running_server(["benchmarks.runtime.echo_server"]) as address:
        deferred = "memory growth per deferred call"
        return [edge, _growth(deferred, bundle, seed, deferred_calls, address)]


def _growth(name: str, bundle: Path, seed: int, calls: int, *address: str) -> Figure:
    if resident_bytes() is None:
        return growth_figure(name, None, calls, "")
    words = (bundle, seed, calls, *address)
    *lines, sources = output_lines("benchmarks.runtime.memory", *words)
    samples = [(int(done), int(held)) for done, held in map(str.split, lines)]
    answers = ", ".join(f"{count} by {source}" for source, count in json.loads(sources).items())
    return growth_figure(name, samples, calls, f"answered {answers}")


def growth_figure(
    name: str, samples: Sequence[tuple[int, int]] | None, calls: int, outcome: str
) -> Figure:
    """Return the growth of a process's memory per call, in bytes, after a warm-up.

    Args:
        name: The figure's name.
        samples: Pairs of calls done and bytes held; None if the system does not count them.
        calls: Number of calls in all.
        outcome: What came of the calls.
    """
    if samples is None:
        return Figure(name, None, _LIMIT_BYTES, "B", NOT_COUNTED)
    after = [sample for sample in samples if sample[0] > _WARM_UP * calls]
    if len(after) < _LEAST_SAMPLES:
        return Figure(name, None, _LIMIT_BYTES, "B", f"{calls} calls are too few for a slope")
    done, held = np.array(after, float).T
    return Figure.of(
        name,
        after,
        _LIMIT_BYTES,
        "B",
        f"standard error {slope(done, held)[1]:.3f}; {held[0] / 1e6:.2f} MB after {done[0]:.0f} "
        f"calls, {held[-1] / 1e6:.2f} MB after {done[-1]:.0f}, most {held.max() / 1e6:.2f}; "
        f"{outcome}",
        statistic="slope",
    )


def _call(bundle: str, seed: int, calls: int, address: str | None) -> None:
    """Make the calls of the separate process, and print the memory held meanwhile."""
    picture = random_picture(SIDE, seed)
    threshold = float("-inf" if address is None else "inf")
    samples = min(_SAMPLES, calls)
    with Cascade.open(
        bundle, cloud=address, threshold=threshold, threads=1, deadline_s=_DEADLINE_S
    ) as cascade:
        done = 0
        for sample in range(1, samples + 1):
            until = calls * sample // samples
            for _ in range(until - done):
                cascade(picture)
            done = until
            gc.collect()  # garbage that waits for collection is no leak
            print(done, resident_bytes(), flush=True)
        sources = cascade.stats.snapshot().sources
    print(json.dumps({name: latency.count for name, latency in sources.items()}), flush=True)


if __name__ == "__main__":
    _bundle, _seed, _calls, *_address = sys.argv[1:]
    _call(_bundle, int(_seed), int(_calls), _address[0] if _address else None)
