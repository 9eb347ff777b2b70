"""Measures what many idle connections cost the server and the one client that calls.

The connections are held by another process:
`python -m benchmarks.serving.connections ADDRESS CONNECTIONS` opens gRPC channels that ask once
whether the server is live, prints `ready`, and holds them until its standard input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.processes import NOT_COUNTED, last_line, resident_bytes, start_module
from benchmarks.serving.graphs import graph_request, write_instant
from benchmarks.serving.load import Plan, run_load, stub_server, to_base64
from benchmarks.untrained import SIDE, random_picture
from edge_runtime.wire import messages as pb

_ROUNDS: Final = 3
_TURN_S: Final = 3.0
_SPARE: Final = 200
"""Files that a process has open besides its connections."""
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1),)
_AT_ONCE: Final = 50
_DEADLINE_S: Final = 60.0


def measure_connections(
    folder: Path, seed: int, connections: int, *, rounds: int = _ROUNDS, turn_s: float = _TURN_S
) -> list[Figure]:
    """Compare a busy client's p99 with and without idle connections, and measure their memory.

    Args:
        folder: Folder for the graph.
        seed: Seed of the request.
        connections: Number of idle connections.
        rounds: Number of turns with and without them.
        turn_s: Length of a turn, in seconds.
    """
    _allow_files(connections + _SPARE)
    graph = write_instant(folder / "connections.onnx")
    rows = random_picture(SIDE, seed)[None]
    alone, crowded, growths = [], [], []
    with stub_server(graph) as server:
        request = graph_request(graph, rows, server.address)
        plan = Plan(
            address=server.address, request=to_base64(request), connections=1, seconds=turn_s
        )
        run_load(plan)
        for _ in range(rounds):
            alone.append(_p99_ms(plan))
            before = resident_bytes(server.pid)
            with _held(server.address, connections):
                after = resident_bytes(server.pid)
                crowded.append(_p99_ms(plan))
            growths.append(None if after is None or before is None else after - before)
    return _figures(connections, alone, crowded, growths[0])


def _p99_ms(plan: Plan) -> float:
    outcome = run_load(plan)
    if set(outcome.counts) != {"OK"}:
        raise BenchmarkError(f"expected answers from {plan.address}, got {dict(outcome.counts)}")
    return float(np.percentile(outcome.durations_s(), 99)) * 1e3


def _figures(
    connections: int, alone: list[float], crowded: list[float], growth: int | None
) -> list[Figure]:
    name = f"{connections} idle connections: "
    return [
        Figure.of(
            f"{name}busy client's p99, with / without",
            [a / b for a, b in zip(crowded, alone, strict=True)],
            None,
            "x",
            f"{np.median(crowded):.2f} and {np.median(alone):.2f} ms, one client, "
            f"median of {len(alone)} rounds",
        ),
        # The growth of the first round: the process keeps the memory and reuses it afterwards.
        Figure(f"{name}memory per connection", None, None, "KB", NOT_COUNTED)
        if growth is None
        else Figure.of(
            f"{name}memory per connection",
            [growth / connections / 1e3],
            None,
            "KB",
            f"{growth / 1e6:.1f} MB in all",
        ),
    ]


@contextlib.contextmanager
def _held(address: str, connections: int) -> Iterator[None]:
    """Let another process hold idle connections for the length of a block."""
    process = start_module("benchmarks.serving.connections", address, str(connections))
    with process:  # at its end the pipe closes, and the process goes with it
        assert process.stdout is not None  # noqa: S101 - narrows the type
        assert process.stderr is not None  # noqa: S101 - narrows the type
        if process.stdout.readline().strip() != "ready":
            reason = last_line(process.stderr.read())
            raise BenchmarkError(f"expected {connections} connections to {address}: {reason}")
        yield


def _allow_files(count: int) -> None:
    """Let this process and those that it starts open this many files.

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


async def _hold(address: str, connections: int) -> None:
    """Open idle connections, and hold them until standard input closes."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def connect() -> grpc.aio.Channel:
        async with limit:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            call = channel.unary_unary(pb.METHODS["ServerLive"], None, None)
            await call(b"", timeout=_DEADLINE_S)
            return channel

    channels = await asyncio.gather(*(connect() for _ in range(connections)))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.gather(*(channel.close(None) for channel in channels))


if __name__ == "__main__":
    try:
        asyncio.run(_hold(sys.argv[1], int(sys.argv[2])))
    except grpc.aio.AioRpcError as error:  # its own text takes several lines
        sys.exit(f"{error.code().name}: {error.details()}")
