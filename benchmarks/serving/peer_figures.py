"""Measures calls a second and their times beside MLServer, with the same graph and requests.

The servers take turns of a second or two, all of them started and idle meanwhile, so that a
drifting machine moves all alike; what is compared are turns of one round. The load takes a part of
the machine as well, the same a call of every server, and so more of it from a faster one: on few
cores what is seen is less than the servers' own ratio.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from benchmarks.errors import BenchmarkError
from benchmarks.figure import Figure
from benchmarks.peers.mlp import FEATURES, INPUT, write_mlp
from benchmarks.peers.mlserver import EXECUTABLE, MLServer, write_repository
from benchmarks.resident import processor_s
from benchmarks.server import Server
from benchmarks.serving.graphs import answer
from benchmarks.serving.load import Plan, in_base64, prepared, put
from benchmarks.serving.stub import check_answer, stub
from edge_runtime.environment import hardware

_CLIENTS: Final = {16: 2.0, 64: 4.0}
"""Clients at once, and how many times the peer's calls a second are asked for."""
_P99_LIMIT: Final = 0.5
_TURN_S: Final = 1.5
_OURS: Final = "ours"
_Server: TypeAlias = Server | MLServer
_MAX_BATCH: Final = 64
_BATCH_TIME_S: Final = 0.002
_MISSING: Final = "MLServer is not installed: make .venv-mlserver/.installed"


@dataclass(frozen=True)
class _Turn:
    """One server's turn.

    Attributes:
        rate: Answered calls a second.
        p50_ms: Of their times.
        p99_ms: Of their times.
        load_us: Processor time of the load's process a call.
        server_us: Processor time of the server's process a call; NaN where it is not told.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    load_us: float
    server_us: float


def peer_figures(folder: Path, seed: int, rounds: int, *, turn_s: float = _TURN_S) -> list[Figure]:
    """Return calls a second and p99 over MLServer's, at each number of clients.

    Args:
        folder: Gets the graph and MLServer's repositories.
        seed: Of weights and the request.
        rounds: How often all servers take their turn.
        turn_s: Length of a turn, in seconds.
    """
    if not EXECUTABLE.exists():
        return [figure for clients in _CLIENTS for figure in _not_measured(clients)]
    graph = folder / "mlp.onnx"
    write_mlp(graph, seed=seed)
    row = np.random.default_rng(seed).normal(size=(1, FEATURES)).astype(np.float32)
    request = prepared(graph.stem, INPUT, row)
    with _servers(folder, graph) as servers:
        for server in servers.values():
            check_answer(server.address, request, answer(graph, row))
        return [
            figure
            for clients in _CLIENTS
            for figure in _figures(
                clients, _rounds(servers, in_base64(request), clients, rounds, turn_s)
            )
        ]


@contextlib.contextmanager
def _servers(folder: Path, graph: Path) -> Iterator[dict[str, _Server]]:
    """Yield ours, and MLServer without and with its adaptive batching."""
    write_repository(folder / "plain", graph, threads=1)
    write_repository(
        folder / "batching",
        graph,
        threads=1,
        max_batch_size=_MAX_BATCH,
        max_batch_time_s=_BATCH_TIME_S,
    )
    with (
        stub(graph, "--max-batch", str(_MAX_BATCH)) as ours,
        MLServer(folder / "plain") as plain,
        MLServer(folder / "batching") as batching,
    ):
        yield {
            _OURS: ours,
            "MLServer": plain,
            "MLServer with adaptive batching": batching,
        }


def _rounds(
    servers: Mapping[str, _Server], request: str, clients: int, rounds: int, turn_s: float
) -> dict[str, list[_Turn]]:
    turns: dict[str, list[_Turn]] = {name: [] for name in servers}
    order = list(servers)
    for i in tqdm(range(rounds + 1), desc=f"{clients} clients", leave=False, disable=None):
        # Nobody always follows the same server.
        for name in order if i % 2 else reversed(order):
            turn = _turn(servers[name], request, clients, turn_s)
            if i:  # the first round warms up
                turns[name].append(turn)
    return turns


def _turn(server: _Server, request: str, clients: int, turn_s: float) -> _Turn:
    before = _processor_s(server)
    done = put(Plan(address=server.address, request=request, clients=clients, seconds=turn_s))
    if set(done.counts) != {"OK"}:
        # A call that is refused or fails is quick: it must not pass for a fast answer.
        raise BenchmarkError(f"expected answers of {server.address}, got {done.counts}")
    p50, p99 = np.percentile(done.took_s(), [50, 99]) * 1e3
    took = np.array([done.cpu_s, _processor_s(server) - before]) / done.answered * 1e6
    return _Turn(done.rate, float(p50), float(p99), *took.tolist())


def _processor_s(server: _Server) -> float:
    taken = None if server.pid is None else processor_s(server.pid)
    return float("nan") if taken is None else taken


def _figures(clients: int, turns: Mapping[str, list[_Turn]]) -> list[Figure]:
    """Compare with the better of the peer's two ways: by calls a second, and by p99."""
    peers = [name for name in turns if name != _OURS]
    fastest = max(peers, key=lambda name: median(turn.rate for turn in turns[name]))
    calmest = min(peers, key=lambda name: median(turn.p99_ms for turn in turns[name]))
    told = "; ".join(f"{name} {_told(turns[name])}" for name in turns)
    return [
        Figure.of(
            _rate_name(clients),
            [a.rate / b.rate for a, b in zip(turns[_OURS], turns[fastest], strict=True)],
            _CLIENTS[clients],
            "x",
            f"beside {fastest}; median of rounds; {told}; 1 thread each, "
            f"{hardware()['cores']} cores with the load",
            at_least=True,
        ),
        Figure.of(
            _p99_name(clients),
            [a.p99_ms / b.p99_ms for a, b in zip(turns[_OURS], turns[calmest], strict=True)],
            _P99_LIMIT,
            "x",
            f"beside {calmest}; median of rounds",
        ),
    ]


def _told(turns: list[_Turn]) -> str:
    rate, p50, p99, load, server = (
        median(getattr(turn, field.name) for turn in turns) for field in fields(_Turn)
    )
    return (
        f"{rate:.0f} calls/s, p50 {p50:.1f} and p99 {p99:.1f} ms, "
        f"processor {server:.0f} us a call and {load:.0f} of the load"
    )


def _rate_name(clients: int) -> str:
    return f"{clients} clients: calls/s over MLServer's"


def _p99_name(clients: int) -> str:
    return f"{clients} clients: p99 over MLServer's"


def _not_measured(clients: int) -> list[Figure]:
    limit = _CLIENTS[clients]
    return [
        Figure(_rate_name(clients), None, limit, "x", _MISSING, at_least=True),
        Figure(_p99_name(clients), None, _P99_LIMIT, "x", _MISSING),
    ]
