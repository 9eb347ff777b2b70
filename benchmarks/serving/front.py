"""Measures what the server costs a call beyond a bare handler that answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
import numpy as np
from tqdm.auto import tqdm

from benchmarks.figures import Figure, slope
from benchmarks.processes import NOT_COUNTED, Server, resident_bytes, running_server
from benchmarks.serving.graphs import INPUT, answer, instant
from benchmarks.serving.load import Outcome, Plan, check_answer, in_base64, prepared, put, stub
from benchmarks.timing import medians_a_round_us
from benchmarks.untrained import random_picture
from edge_runtime.wire import messages as pb

# MERGEDOC benchmarks/serving/soak_figures.py: 'Measures whether a server that answers call after call holds more and more memory.'

_LIMITS_MS: Final = {32: 0.3, 448: 0.5}
"""Limit by the side of the picture: 3 and 600 KB."""
_CALLS_A_ROUND: Final = 25
_DEADLINE_S: Final = 10.0

_CLIENTS: Final = 16
_SIDE: Final = 8
_LIMIT_BYTES: Final = 1.0
_WARM_UP: Final = 0.2
"""Share of the calls that come before: allocators, threads and connections settle."""
_LEAST_SAMPLES: Final = 3


def front_figures(folder: Path, seed: int, rounds: int) -> list[Figure]:
    """Return the time a call beyond the bare server's, one client, small and large pictures.

    Args:
        folder: Gets the graph.
        seed: Of the pictures.
        rounds: Alternating rounds of each comparison.
    """
    graph = instant(folder / "instant.onnx")
    with (
        stub(graph) as ours,
        running_server(["benchmarks.serving.bare_server"]) as bare,
    ):
        return [_figure(graph, ours.address, bare, side, seed, rounds) for side in _LIMITS_MS]


def _figure(graph: Path, ours: str, bare: str, side: int, seed: int, rounds: int) -> Figure:
    rows = random_picture(side, seed)[None]
    request = prepared(graph.stem, INPUT, rows)
    check_answer(ours, request, answer(graph, rows))
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
        f"server over a bare handler, {rows.nbytes / 1e3:.0f} KB",
        [(a - b) / 1e3 for a, b in zip(times["ours"], times["bare"], strict=True)],
        _LIMITS_MS[side],
        "ms",
        f"{np.median(times['ours']):.0f} and {np.median(times['bare']):.0f} us, one client, "
        f"the same {len(request)} bytes, median of {rounds} pairs",
    )


def soak_figures(folder: Path, seed: int, requests: int) -> list[Figure]:
    """Watch the resident memory of a server over so many calls of 16 clients.

    Args:
        folder: Gets the graph.
        seed: Of the request.
        requests: How many.
    """
    name = f"memory of the server a request, of {requests}"
    graph = instant(folder / "soak.onnx")
    rows = random_picture(_SIDE, seed)[None]
    request = prepared(graph.stem, INPUT, rows)
    with stub(graph) as server:
        check_answer(server.address, request, answer(graph, rows))
        if resident_bytes(server.pid) is None:
            return [Figure(name, None, _LIMIT_BYTES, "B", NOT_COUNTED)]
        plan = Plan(
            address=server.address, request=in_base64(request), clients=_CLIENTS, calls=requests
        )
        points, done = _soak(server, plan, requests)
    after = [point for point in points if point[0] > _WARM_UP * requests]
    if len(after) < _LEAST_SAMPLES:
        detail = f"{requests} requests are too few to tell"
        return [Figure(name, None, _LIMIT_BYTES, "B", detail)]
    return [_soak_figure(name, after, done)]


def _soak(server: Server, plan: Plan, requests: int) -> tuple[list[tuple[int, int]], Outcome]:
    """Return (calls that are over, bytes held) now and then, and what came of the calls."""
    points: list[tuple[int, int]] = []

    with tqdm(total=requests, desc="requests", unit="call", leave=False, disable=None) as bar:

        def look(calls: int) -> None:
            points.append((calls, resident_bytes(server.pid) or 0))
            bar.update(calls - bar.n)

        done = put(plan, look)
    return points, done


def _soak_figure(name: str, after: list[tuple[int, int]], done: Outcome) -> Figure:
    calls, held = np.array(after, float).T
    _, error = slope(calls, held)
    came = ", ".join(f"{count} {status}" for status, count in sorted(done.counts.items()))
    return Figure.of(
        name,
        after,
        _LIMIT_BYTES,
        "B",
        f"standard error {error:.3f}; {held[0] / 1e6:.2f} MB after {calls[0]:.0f}, "
        f"{held[-1] / 1e6:.2f} MB after {calls[-1]:.0f}, most {held.max() / 1e6:.2f}; {came}, "
        f"{done.rate:.0f} a second, {_CLIENTS} clients",
        statistic="slope",
    )
