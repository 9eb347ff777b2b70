"""Measures what many idle connections cost the server, and the one client that calls."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.processes import NOT_COUNTED, resident_bytes
from benchmarks.serving.graphs import INPUT, answer, instant
from benchmarks.serving.load import Plan, check_answer, in_base64, prepared, put, stub
from benchmarks.untrained import SIDE, random_picture

_ROUNDS: Final = 3
_TURN_S: Final = 3.0
_SPARE: Final = 200
"""Files that a process has open beside its connections."""


def connection_figures(
    folder: Path, seed: int, connections: int, *, rounds: int = _ROUNDS, turn_s: float = _TURN_S
) -> list[Figure]:
    """Return a busy client's p99 with idle connections beside that without, and their memory.

    Args:
        folder: Gets the graph.
        seed: Of the request.
        connections: Idle ones.
        rounds: How often both take their turn.
        turn_s: Length of a turn, in seconds.
    """
    _allow_files(connections + _SPARE)
    graph = instant(folder / "connections.onnx")
    rows = random_picture(SIDE, seed)[None]
    request = prepared(graph.stem, INPUT, rows)
    alone, beside, grown = [], [], []
    with stub(graph) as server:
        check_answer(server.address, request, answer(graph, rows))
        plan = Plan(
            address=server.address, request=in_base64(request), connections=1, seconds=turn_s
        )
        put(plan)
        for _ in range(rounds):
            alone.append(_p99_ms(plan))
            before = resident_bytes(server.pid)
            with _held(server.address, connections):
                after = resident_bytes(server.pid)
                beside.append(_p99_ms(plan))
            grown.append(None if after is None or before is None else after - before)
    return _figures(connections, alone, beside, grown)


def _p99_ms(plan: Plan) -> float:
    done = put(plan)
    if set(done.counts) != {"OK"}:
        raise BenchmarkError(f"expected answers of {plan.address}, got {dict(done.counts)}")
    return float(np.percentile(done.took_s(), 99)) * 1e3


def _figures(
    connections: int, alone: list[float], beside: list[float], grown: list[int | None]
) -> list[Figure]:
    name = f"{connections} idle connections: "
    # The first time counts: the process keeps what it got, and uses it again for the next ones.
    memory = [Figure(f"{name}memory a connection", None, None, "KB", NOT_COUNTED)]
    if grown[0] is not None:
        memory = [
            Figure.of(
                f"{name}memory a connection",
                [grown[0] / connections / 1e3],
                None,
                "KB",
                f"{grown[0] / 1e6:.1f} MB in all",
            )
        ]
    return [
        Figure.of(
            f"{name}p99 of a busy one over that without",
            [a / b for a, b in zip(beside, alone, strict=True)],
            None,
            "x",
            f"{np.median(beside):.2f} and {np.median(alone):.2f} ms, one client, "
            f"median of {len(alone)} rounds",
        ),
        *memory,
    ]


@contextlib.contextmanager
def _held(address: str, connections: int) -> Iterator[None]:
    """Hold so many idle connections from another process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.holder", address, str(connections)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:  # at its end the pipe closes, and the process goes with it
        assert process.stdout is not None  # noqa: S101 - narrows the type
        assert process.stderr is not None  # noqa: S101 - narrows the type
        if process.stdout.readline().strip() != "ready":
            reason = (process.stderr.read().strip().splitlines() or ["no message"])[-1]
            raise BenchmarkError(f"expected {connections} connections to {address}: {reason}")
        yield


def _allow_files(count: int) -> None:
    """Let this process, and those it starts, open so many files.

    Raises:
        BenchmarkError: The system allows fewer.
    """
    try:
        import resource
    except ImportError:  # a system without such limits
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchmarkError(f"expected to open {count} files, got a limit of {hard}: raise it")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
