"""Measures whether a server that answers call after call holds more and more memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from tqdm.auto import tqdm

from benchmarks.bundles import random_picture
from benchmarks.figure import Figure
from benchmarks.resident import NOT_COUNTED, resident_bytes
from benchmarks.server import Server
from benchmarks.serving.graphs import INPUT, answer, instant
from benchmarks.serving.load import Outcome, Plan, in_base64, prepared, put
from benchmarks.serving.stub import check_answer, stub
from benchmarks.trend import slope

_CLIENTS: Final = 16
_SIDE: Final = 8
_LIMIT_BYTES: Final = 1.0
_WARM_UP: Final = 0.2
"""Share of the calls that come before: allocators, threads and connections settle."""
_LEAST_SAMPLES: Final = 3


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
