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
from typing import Any, Final, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.processes import Server, processor_s
from benchmarks.serving.graphs import FEATURES, MLP_INPUT, answer, write_mlp
from benchmarks.serving.load import Plan, check_answer, in_base64, prepared, put, stub
from benchmarks.serving.mlserver import EXECUTABLE, MLServer, write_repository
from edge_runtime.environment import hardware

_CLIENTS: Final = {16: 2.0, 64: 4.0}
"""Clients at once, and how many times the peer's calls a second are asked for."""
_P99_LIMIT: Final = 0.5
_TURN_S: Final = 1.2
_MAX_BATCH: Final = 64
_BATCHING: Final[dict[str, Any]] = {"max_batch_size": _MAX_BATCH, "max_batch_time_s": 0.002}
_OURS: Final = "ours"
_OURS_BATCHING: Final = "ours, batching"
_WAYS: Final[dict[str, tuple[str, ...]]] = {
    _OURS: (),
    _OURS_BATCHING: ("--max-delay-ms", "2"),
}
_BARE: Final = "a bare handler"
_PEERS: Final[dict[str, tuple[str, dict[str, dict[str, Any]]]]] = {
    "MLServer's, both as they come": (_OURS, {"MLServer": {"workers": 1}}),
    "MLServer's, both batching for 2 ms": (
        _OURS_BATCHING,
        {"MLServer, batching": {"workers": 1} | _BATCHING},
    ),
    "MLServer's in one process": (
        _OURS_BATCHING,
        {
            "MLServer in one process": {"workers": 0},
            "MLServer in one process, batching": {"workers": 0} | _BATCHING,
        },
    ),
}
"""What is compared, and how MLServer is set: a process for the model is its own default, that a
single process does both has to be set, and is faster on few cores. Of two ways the better counts.
"""
_Server: TypeAlias = Server | MLServer
_MISSING: Final = "MLServer is not installed: make .venv-mlserver/.installed"


@dataclass(frozen=True)
class _Turn:
    """One server's turn.

    Attributes:
        rate: Answered calls a second.
        p50_ms: Of their times.
        p99_ms: Of their times.
        load_us: Processor time of the load's process a call.
        server_us: Processor time of all the server's processes a call; NaN where it is not told.
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
    request = prepared(graph.stem, MLP_INPUT, row)
    with _servers(folder, graph) as servers:
        for name, server in servers.items():
            if name != _BARE:
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
    """Yield ours, MLServer in each way, and the bare handler, which no server of grpc.aio beats."""
    with contextlib.ExitStack() as started:
        servers: dict[str, _Server] = {
            name: started.enter_context(stub(graph, "--max-batch", str(_MAX_BATCH), *flags))
            for name, flags in _WAYS.items()
        }
        servers |= {
            _BARE: started.enter_context(Server(["benchmarks.serving.bare_server"])),
        }
        for _, ways in _PEERS.values():
            for name, settings in ways.items():
                place = folder / str(len(servers))
                write_repository(place, graph, threads=1, **settings)
                servers[name] = started.enter_context(MLServer(place))
        yield servers


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
    found = [
        figure
        for peer, (ours, ways) in _PEERS.items()
        for figure in _over(peer, clients, turns[ours], {name: turns[name] for name in ways})
    ]
    bare = Figure.of(
        f"{clients} clients: calls/s over a bare handler's",
        _ratios(turns[_OURS], turns[_BARE], "rate"),
        None,
        "x",
        f"{_told(turns[_OURS])}; a bare handler {_told(turns[_BARE])}",
    )
    return [*found, bare]


def _over(
    peer: str, clients: int, ours: list[_Turn], ways: Mapping[str, list[_Turn]]
) -> list[Figure]:
    """Compare with the better of the peer's ways: by calls a second, and by p99."""
    fastest = max(ways, key=lambda name: median(turn.rate for turn in ways[name]))
    calmest = min(ways, key=lambda name: median(turn.p99_ms for turn in ways[name]))
    told = "; ".join(f"{name} {_told(turns)}" for name, turns in ways.items())
    return [
        Figure.of(
            _rate_name(clients, peer),
            _ratios(ours, ways[fastest], "rate"),
            _CLIENTS[clients],
            "x",
            f"beside {fastest}; ours {_told(ours)}; {told}; medians of {len(ours)} rounds, "
            f"1 thread each, {hardware()['cores']} cores with the load",
            at_least=True,
        ),
        Figure.of(
            _p99_name(clients, peer),
            _ratios(ours, ways[calmest], "p99_ms"),
            _P99_LIMIT,
            "x",
            f"beside {calmest}; median of {len(ours)} rounds",
        ),
    ]


def _ratios(ours: list[_Turn], other: list[_Turn], name: str) -> list[float]:
    return [getattr(a, name) / getattr(b, name) for a, b in zip(ours, other, strict=True)]


def _told(turns: list[_Turn]) -> str:
    rate, p50, p99, load, server = (
        median(getattr(turn, field.name) for turn in turns) for field in fields(_Turn)
    )
    return (
        f"{rate:.0f} calls/s, p50 {p50:.1f} and p99 {p99:.1f} ms, "
        f"processor {server:.0f} us a call and {load:.0f} of the load"
    )


def _rate_name(clients: int, peer: str) -> str:
    return f"{clients} clients: calls/s over {peer}"


def _p99_name(clients: int, peer: str) -> str:
    return f"{clients} clients: p99 over {peer}"


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
