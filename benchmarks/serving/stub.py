"""Starts cloud_stub with a graph, and asks it once whether it answers what the graph does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.server import Server
from edge_runtime.wire import messages as pb
from edge_runtime.wire.tensors import decode_tensors

_DEADLINE_S: Final = 30.0
_TOLERANCE: Final = 1e-4
"""Libraries sum in different orders."""


def stub(graph: Path, *flags: str) -> Server:
    """Return a server of a graph on one thread, not started yet, the model named as the file."""
    words = ["--onnx", str(graph), "--model", graph.stem, "--threads", "1"]
    port = [] if "--port" in flags else ["--port", "0"]
    return Server(["cloud_stub", *words, *port, *flags])


def check_answer(address: str, request: bytes, expected: Any) -> None:
    """Ask once.

    Raises:
        BenchmarkError: The first output is not what was expected.
    """
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        answer = pb.ModelInferResponse.FromString(
            call(request, timeout=_DEADLINE_S, wait_for_ready=True)
        )
    given = decode_tensors(answer.outputs[:1], answer.raw_output_contents[:1])
    (values,) = given.values()
    if values.shape != expected.shape or not np.allclose(values, expected, atol=_TOLERANCE):
        raise BenchmarkError(f"{address} does not answer what the graph does: got {values!r:.80}")
