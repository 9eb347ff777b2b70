"""Measures whether a process that goes on calling holds more and more memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure, slope
from benchmarks.processes import NOT_COUNTED, resident_bytes, running_server

_LIMIT_BYTES: Final = 1.0
_WARM_UP: Final = 0.2
"""Share of the calls that come before: allocators, threads and connections settle."""
_LEAST_SAMPLES: Final = 3


def memory_figures(bundle: Path, seed: int, edge_calls: int, deferred_calls: int) -> list[Figure]:
    """Watch the resident memory of a process of edge-answered calls, and of one of deferred ones.

    Args:
        bundle: Of a SmallCNN.
        seed: Of the picture.
        edge_calls: Calls that the edge answers.
        deferred_calls: Calls that a server answers.
    """
    edge = _growth("memory an edge-answered call", bundle, seed, edge_calls, None)
    with running_server(["benchmarks.runtime.echo_server"]) as address:
        return [edge, _growth("memory a deferred call", bundle, seed, deferred_calls, address)]


def _growth(name: str, bundle: Path, seed: int, calls: int, address: str | None) -> Figure:
    if resident_bytes() is None:
        return Figure(name, None, _LIMIT_BYTES, "B", NOT_COUNTED)
    *lines, sources = _soak(bundle, seed, calls, address)
    samples = np.array([line.split() for line in lines], float)
    after = samples[samples[:, 0] > _WARM_UP * calls]
    if len(after) < _LEAST_SAMPLES:
        return Figure(name, None, _LIMIT_BYTES, "B", f"{calls} calls are too few to tell")
    per_call, error = slope(after[:, 0], after[:, 1])
    first_mb, last_mb = after[[0, -1], 1] / 1e6
    by = ", ".join(f"{count} by {source}" for source, count in json.loads(sources).items())
    return Figure(
        name,
        per_call,
        _LIMIT_BYTES,
        "B",
        f"standard error {error:.3f}; {first_mb:.2f} MB after {after[0, 0]:.0f} calls, "
        f"{last_mb:.2f} MB after {calls}; answered {by}",
    )


def _soak(bundle: Path, seed: int, calls: int, address: str | None) -> list[str]:
    words = [str(bundle), str(seed), str(calls), *([address] if address else [])]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.runtime.soak", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"the process of {calls} calls ended: {reason}")
    return done.stdout.splitlines()
