"""Puts load on a server from a separate process, and checks once that its answers are right."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt

from benchmarks.errors import BenchmarkError
from benchmarks.processes import Server, last_line, start_module
from edge_runtime.wire import messages as pb
from edge_runtime.wire.tensors import append_raw, datatype_of, decode_tensors, encode_array

CONNECTIONS: Final = 4
"""With fewer, one connection's flow control is the limit; more cost the generator time."""
_DEADLINE_S: Final = 30.0
_TOLERANCE: Final = 1e-4  # libraries sum in different orders


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The load to put on a server.

    Attributes:
        address: `HOST:PORT` of the server.
        request: The serialised request in base64.
        first: The request that opens each connection, likewise; by default the same.
        clients: Clients of the closed loop.
        connections: Connections over which the calls go in turn.
        seconds: Time during which calls begin.
        calls: Number of calls of a closed loop, in place of `seconds`; these are not timed.
        rate: Calls per second of an open loop; None for a closed one.
        deadline_s: Deadline of each call.
        seed: Seed of the open loop's times.
    """

    address: str
    request: str
    first: str | None = None
    clients: int = 1
    connections: int = CONNECTIONS
    seconds: float = 1.0
    calls: int | None = None
    rate: float | None = None
    deadline_s: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a plan.

    Attributes:
        wall_s: Time from the first call's begin to the last one's end.
        cpu_s: The generator's own processor time.
        counts: Calls by status.
        times_s: float64 [calls, 2] by status: due time and duration of each call.
        late_s: float64 [calls]: delay of each call after its due time; open loop only.
    """

    wall_s: float
    cpu_s: float
    counts: dict[str, int]
    times_s: dict[str, npt.NDArray[np.float64]]
    late_s: npt.NDArray[np.float64]

    @property
    def answered(self) -> int:
        """Number of answered calls."""
        return self.counts.get("OK", 0)

    @property
    def rate(self) -> float:
        """Answered calls per second."""
        return self.answered / self.wall_s

    def durations_s(self, status: str = "OK", since_s: float = 0.0) -> npt.NDArray[np.float64]:
        """Return the durations of a status's calls that were due at `since_s` or later."""
        times = self.times_s.get(status, np.empty((0, 2)))
        return times[times[:, 0] >= since_s, 1]

    def goodput(self, since_s: float, until_s: float) -> float:
        """Return the answers per second within a window of time."""
        times = self.times_s.get("OK", np.empty((0, 2)))
        ends = times.sum(axis=1)
        return float(((ends >= since_s) & (ends < until_s)).sum()) / (until_s - since_s)


def serialise(model: str, name: str, rows: npt.NDArray[Any]) -> bytes:
    """Return a serialised request with one input, in raw form."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype_of(rows), shape=rows.shape)
    return append_raw(request, [encode_array(rows)])


def to_base64(request: bytes) -> str:
    """Return a request as a plan holds it."""
    return base64.b64encode(request).decode("ascii")


def run_load(plan: Plan, progress: Callable[[int], object] = bool) -> Outcome:
    """Put a plan's load on its server.

    Args:
        plan: The load.
        progress: Called now and then with the number of finished calls; by default nothing is.

    Raises:
        BenchmarkError: The generator ended without a result.
    """
    process = start_module("benchmarks.serving.generator")
    with process:
        try:
            assert process.stdin is not None  # noqa: S101 - narrows the type
            json.dump(asdict(plan), process.stdin)
            process.stdin.close()
            line = _last_progress(process, progress)
            errors = process.stderr.read() if process.stderr else ""
        except BaseException:
            process.kill()
            raise
    if process.returncode or not line.startswith("{"):
        reason = last_line(errors)
        raise BenchmarkError(f"the load on {plan.address} ended without a result: {reason}")
    result = json.loads(line)
    return Outcome(
        wall_s=result["wall_s"],
        cpu_s=result["cpu_s"],
        counts=result["counts"],
        times_s={status: np.array(times) / 1e6 for status, times in result["times_us"].items()},
        late_s=np.array(result["late_us"], float) / 1e6,
    )


def _last_progress(process: subprocess.Popen[str], progress: Callable[[int], object]) -> str:
    assert process.stdout is not None  # noqa: S101 - narrows the type
    line = ""
    for line in process.stdout:
        if line.strip().isdigit():
            progress(int(line))
    return line


def stub_server(graph: Path, *flags: str) -> Server:
    """Return a server of a graph on one thread, not started yet; the model has the file's name."""
    words = ["--onnx", str(graph), "--allow-loops", "--model", graph.stem, "--threads", "1"]
    port = [] if "--port" in flags else ["--port", "0"]
    return Server(["cloud_stub", *words, *port, *flags])


def check_answer(address: str, request: bytes, expected: Any) -> None:
    """Send a request once, and compare the first output of the answer.

    Raises:
        BenchmarkError: It is not what was expected.
    """
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        answer = pb.ModelInferResponse.FromString(
            call(request, timeout=_DEADLINE_S, wait_for_ready=True)
        )
    outputs = decode_tensors(answer.outputs[:1], answer.raw_output_contents[:1])
    (values,) = outputs.values()
    if values.shape != expected.shape or not np.allclose(values, expected, atol=_TOLERANCE):
        raise BenchmarkError(f"expected the graph's answer from {address}, got {values!r:.80}")
