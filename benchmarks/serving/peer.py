"""Compares the server with MLServer, by calls per second and p99, on the same graph and requests.

The servers take turns of a second or two. All of them stay up, idle between their turns, so that a
drifting machine affects them alike; turns of the same round are compared. The load generator takes
the same processor time per call for every server, hence more of the machine for a faster one: on
few cores the ratio shown is smaller than that of the servers alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.processes import Server, processor_s
from benchmarks.serving.graphs import FEATURES, graph_request, write_mlp
from benchmarks.serving.load import Plan, run_load, stub_server, to_base64
from benchmarks.serving.mlserver import EXECUTABLE, MLServer, write_repository
from edge_runtime.environment import hardware

_CLIENTS: Final = {16: 2.0, 64: 4.0}
"""Number of clients, and the least ratio of our calls per second to MLServer's."""
_P99_LIMIT: Final = 0.5
_TURN_S: Final = 1.2
_MAX_BATCH: Final = 64
_BATCHING: Final[dict[str, Any]] = {"max_batch_size": _MAX_BATCH, "max_batch_time_s": 0.002}
_OURS: Final = "ours"
_OURS_BATCHING: Final = "ours, batching"
_OUR_FLAGS: Final[dict[str, tuple[str, ...]]] = {
    _OURS: (),
    _OURS_BATCHING: ("--max-delay-ms", "2"),
}
_BARE: Final = "a bare handler"
_PEERS: Final[dict[str, tuple[str, dict[str, dict[str, Any]]]]] = {
    "MLServer, both with defaults": (_OURS, {"MLServer": {"workers": 1}}),
    "MLServer, both batching for 2 ms": (
        _OURS_BATCHING,
        {"MLServer, batching": {"workers": 1} | _BATCHING},
    ),
    "MLServer in one process": (
        _OURS_BATCHING,
        {
            "MLServer in one process": {"workers": 0},
            "MLServer in one process, batching": {"workers": 0} | _BATCHING,
        },
    ),
}
"""Each comparison: our server, and MLServer's settings. By default MLServer runs the model in a
separate process; one process for both is faster on few cores. Of two settings the better counts."""
_Server: TypeAlias = Server | MLServer
_MISSING: Final = "MLServer is not installed: make .venv-mlserver/.installed"


@dataclass(frozen=True)
class _Turn:
    """One server's turn.

    Attributes:
        rate: Answered calls per second.
        p50_ms: Median duration of a call.
        p99_ms: 99th percentile of the durations.
        load_us: Processor time of the load generator per call.
        server_us: Processor time of all the server's processes per call; NaN if unknown.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    load_us: float
    server_us: float


def measure_peers(folder: Path, seed: int, rounds: int, *, turn_s: float = _TURN_S) -> list[Figure]:
    """Return the ratios of calls per second and of p99 to MLServer's, for 16 and 64 clients.

    Args:
        folder: Folder for the graph and MLServer's repositories.
        seed: Seed of the weights and of the request.
        rounds: Number of turns of every server.
        turn_s: Length of a turn, in seconds.
    """
    if not EXECUTABLE.exists():
        return [figure for clients in _CLIENTS for figure in _not_measured(clients)]
    graph = write_mlp(folder / "mlp.onnx", seed=seed)
    row = np.random.default_rng(seed).normal(size=(1, FEATURES)).astype(np.float32)
    with _servers(folder, graph) as servers:
        addresses = [server.address for name, server in servers.items() if name != _BARE]
        request = graph_request(graph, row, *addresses)
        return [
            figure
            for clients in _CLIENTS
            for figure in _figures(
                clients, _rounds(servers, to_base64(request), clients, rounds, turn_s)
            )
        ]


@contextlib.contextmanager
def _servers(folder: Path, graph: Path) -> Iterator[dict[str, _Server]]:
    """Yield ours, MLServer with each of its settings, and the bare handler as an upper bound."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, _Server] = {
            name: stub_server(graph, "--max-batch", str(_MAX_BATCH), *flags)
            for name, flags in _OUR_FLAGS.items()
        }
        servers[_BARE] = Server(["benchmarks.serving.bare_server"])
        for _, variants in _PEERS.values():
            for name, settings in variants.items():
                place = folder / str(len(servers))
                write_repository(place, graph, threads=1, **settings)
                servers[name] = MLServer(place)
        for server in servers.values():
            stack.enter_context(server)
        yield servers


def _rounds(
    servers: Mapping[str, _Server], request: str, clients: int, rounds: int, turn_s: float
) -> dict[str, list[_Turn]]:
    turns: dict[str, list[_Turn]] = {name: [] for name in servers}
    order = list(servers)
    for i in tqdm(range(rounds + 1), desc=f"{clients} clients", leave=False, disable=None):
        # The order alternates, so that no server always follows the same one.
        for name in order if i % 2 else reversed(order):
            turn = _turn(servers[name], request, clients, turn_s)
            if i:  # the first round warms up
                turns[name].append(turn)
    return turns


def _turn(server: _Server, request: str, clients: int, turn_s: float) -> _Turn:
    before = _processor_s(server)
    done = run_load(Plan(address=server.address, request=request, clients=clients, seconds=turn_s))
    if set(done.counts) != {"OK"}:
        # A call that is refused or fails is quick: it must not pass for a fast answer.
        raise BenchmarkError(f"expected answers from {server.address}, got {done.counts}")
    p50, p99 = np.percentile(done.durations_s(), [50, 99]) * 1e3
    cpu_us = np.array([done.cpu_s, _processor_s(server) - before]) / done.answered * 1e6
    return _Turn(done.rate, float(p50), float(p99), *cpu_us.tolist())


def _processor_s(server: _Server) -> float:
    seconds = None if server.pid is None else processor_s(server.pid)
    return float("nan") if seconds is None else seconds


def _figures(clients: int, turns: Mapping[str, list[_Turn]]) -> list[Figure]:
    figures = [
        figure
        for peer, (ours, variants) in _PEERS.items()
        for figure in _compare(peer, clients, turns[ours], {n: turns[n] for n in variants})
    ]
    bare = Figure.of(
        _rate_name(clients, _BARE),
        _ratios(turns[_OURS], turns[_BARE], "rate"),
        None,
        "x",
        f"{_summary(turns[_OURS])}; {_BARE} {_summary(turns[_BARE])}",
    )
    return [*figures, bare]


def _compare(
    peer: str, clients: int, ours: list[_Turn], variants: Mapping[str, list[_Turn]]
) -> list[Figure]:
    """Compare with the best variant of the peer: by calls per second, and by p99."""
    fastest = max(variants, key=lambda name: median(turn.rate for turn in variants[name]))
    calmest = min(variants, key=lambda name: median(turn.p99_ms for turn in variants[name]))
    summaries = "; ".join(f"{name} {_summary(turns)}" for name, turns in variants.items())
    return [
        Figure.of(
            _rate_name(clients, peer),
            _ratios(ours, variants[fastest], "rate"),
            _CLIENTS[clients],
            "x",
            f"against {fastest}; ours {_summary(ours)}; {summaries}; medians of {len(ours)} "
            f"rounds, 1 thread each, {hardware()['cores']} cores shared with the load",
            at_least=True,
        ),
        Figure.of(
            _p99_name(clients, peer),
            _ratios(ours, variants[calmest], "p99_ms"),
            _P99_LIMIT,
            "x",
            f"against {calmest}; median of {len(ours)} rounds",
        ),
    ]


def _ratios(ours: list[_Turn], other: list[_Turn], name: str) -> list[float]:
    return [getattr(a, name) / getattr(b, name) for a, b in zip(ours, other, strict=True)]


def _summary(turns: list[_Turn]) -> str:
    rate, p50, p99, load, server = (
        median(getattr(turn, field.name) for turn in turns) for field in fields(_Turn)
    )
    return (
        f"{rate:.0f} calls/s, p50 {p50:.1f} and p99 {p99:.1f} ms, "
        f"processor time per call {server:.0f} us and {load:.0f} of the load"
    )


def _rate_name(clients: int, peer: str) -> str:
    return f"{clients} clients: calls/s, ours / {peer}"


def _p99_name(clients: int, peer: str) -> str:
    return f"{clients} clients: p99, ours / {peer}"


def _not_measured(clients: int) -> list[Figure]:
    limit = _CLIENTS[clients]
    return [
        figure
        for peer in _PEERS
        for figure in (
            Figure(_rate_name(clients, peer), None, limit, "x", _MISSING, at_least=True),
            Figure(_p99_name(clients, peer), None, _P99_LIMIT, "x", _MISSING),
        )
    ]
