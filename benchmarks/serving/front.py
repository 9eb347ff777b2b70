"""Measures what the server adds to a call beyond a bare handler, and whether its memory grows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
import numpy as np
from tqdm.auto import tqdm

from benchmarks.figures import Figure
from benchmarks.processes import Server, resident_bytes, running_server
from benchmarks.runtime.memory import growth_figure
from benchmarks.serving.graphs import graph_request, write_instant
from benchmarks.serving.load import Outcome, Plan, run_load, stub_server, to_base64
from benchmarks.timing import medians_a_round_us
from benchmarks.untrained import random_picture
from edge_runtime.wire import messages as pb

_LIMITS_MS: Final = {32: 0.3, 448: 0.5}
"""Limit by side of the picture: 3 and 602 KB."""
_CALLS_A_ROUND: Final = 25
_DEADLINE_S: Final = 10.0
_CLIENTS: Final = 16
_SIDE: Final = 8


def measure_front(folder: Path, seed: int, rounds: int) -> list[Figure]:
    """Time one client's calls to the server and to the bare server, small and large pictures.

    Args:
        folder: Folder for the graph.
        seed: Seed of the pictures.
        rounds: Alternating rounds of each comparison.
    """
    graph = write_instant(folder / "instant.onnx")
    with (
        stub_server(graph) as ours,
        running_server(["benchmarks.serving.bare_server"]) as bare,
    ):
        return [_overhead(graph, ours.address, bare, side, seed, rounds) for side in _LIMITS_MS]


def _overhead(graph: Path, ours: str, bare: str, side: int, seed: int, rounds: int) -> Figure:
    rows = random_picture(side, seed)[None]
    request = graph_request(graph, rows, ours)
    with grpc.insecure_channel(ours) as our_channel, grpc.insecure_channel(bare) as bare_channel:
        call = our_channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        bare_call = bare_channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        times = medians_a_round_us(
            {
                "ours": lambda: call(request, timeout=_DEADLINE_S),
                "bare": lambda: bare_call(request, timeout=_DEADLINE_S),
            },
            rounds=rounds,
            calls_a_round=_CALLS_A_ROUND,
        )
    return Figure.of(
        f"server minus bare handler, {rows.nbytes / 1e3:.0f} KB",
        [(a - b) / 1e3 for a, b in zip(times["ours"], times["bare"], strict=True)],
        _LIMITS_MS[side],
        "ms",
        f"{np.median(times['ours']):.0f} and {np.median(times['bare']):.0f} us, one client, "
        f"the same {len(request)} bytes, median of {rounds} pairs",
    )


def measure_growth(folder: Path, seed: int, requests: int) -> list[Figure]:
    """Watch the resident memory of a server over many calls of 16 clients.

    Args:
        folder: Folder for the graph.
        seed: Seed of the request.
        requests: Number of calls.
    """
    graph = write_instant(folder / "soak.onnx")
    rows = random_picture(_SIDE, seed)[None]
    samples, outcome = None, ""
    with stub_server(graph) as server:
        request = graph_request(graph, rows, server.address)
        if resident_bytes(server.pid) is not None:
            text = to_base64(request)
            plan = Plan(address=server.address, request=text, clients=_CLIENTS, calls=requests)
            samples, done = _watch(server, plan, requests)
            counts = ", ".join(f"{count} {status}" for status, count in sorted(done.counts.items()))
            outcome = f"{counts}, {done.rate:.0f} a second, {_CLIENTS} clients"
    name = f"server's memory growth per request, of {requests}"
    return [growth_figure(name, samples, requests, outcome)]


def _watch(server: Server, plan: Plan, requests: int) -> tuple[list[tuple[int, int]], Outcome]:
    """Return pairs of calls done and bytes held, and the outcome of the calls."""
    samples: list[tuple[int, int]] = []
    with tqdm(total=requests, desc="requests", unit="call", leave=False, disable=None) as bar:

        def sample(calls: int) -> None:
            samples.append((calls, resident_bytes(server.pid) or 0))
            bar.update(calls - bar.n)

        return samples, run_load(plan, sample)
