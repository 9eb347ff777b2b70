"""Measures what the server costs a call beyond a bare handler that answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
import numpy as np

from benchmarks.bundles import random_picture
from benchmarks.figure import Figure
from benchmarks.server import running_server
from benchmarks.serving.graphs import INPUT, answer, instant
from benchmarks.serving.load import prepared
from benchmarks.serving.stub import check_answer, stub
from benchmarks.timing import medians_a_round_us
from edge_runtime.wire import messages as pb

_LIMITS_MS: Final = {32: 0.3, 448: 0.5}
"""Limit by the side of the picture: 3 and 600 KB."""
_CALLS_A_ROUND: Final = 25
_DEADLINE_S: Final = 10.0


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
