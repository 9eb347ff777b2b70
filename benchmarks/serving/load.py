"""Puts load on a server from a process of its own, and returns what came of it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt

from benchmarks.errors import BenchmarkError
from benchmarks.processes import Server
from edge_runtime.wire import messages as pb
from edge_runtime.wire.tensors import append_raw, datatype_of, decode_tensors, encode_array

# MERGEDOC benchmarks/serving/stub.py: 'Starts cloud_stub with a graph, and asks it once whether it answers what the graph does.'

CONNECTIONS: Final = 4
"""Fewer would make one connection's flow control the limit, more cost the generator time."""

_DEADLINE_S: Final = 30.0
_TOLERANCE: Final = 1e-4
"""Libraries sum in different orders."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What load is put on a server.

    Attributes:
        address: `HOST:PORT` of the server.
        request: The request, serialised and in base64.
        clients: Of the closed loop.
        connections: Over which the clients' calls go in turn.
        seconds: How long calls begin.
        calls: Instead, how many calls of a closed loop; then they are counted and not timed.
        rate: Calls a second of an open loop; None for a closed one.
        deadline_s: Of each call.
        seed: Of the open loop's times.
    """

    address: str
    request: str
    clients: int = 1
    connections: int = CONNECTIONS
    seconds: float = 1.0
    calls: int | None = None
    rate: float | None = None
    deadline_s: float = 10.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a plan.

    Attributes:
        wall_s: From the first call's begin to the last one's end.
        cpu_s: The generator's own processor time.
        counts: Calls by status.
        times_s: float64 [calls, 2] by status: when a call was due, and how long it took.
        late_s: float64 [calls]: how long after it was due each call was made, open loop only.
    """

    wall_s: float
    cpu_s: float
    counts: dict[str, int]
    times_s: dict[str, npt.NDArray[np.float64]]
    late_s: npt.NDArray[np.float64]

    @property
    def answered(self) -> int:
        """How many calls were answered."""
        return self.counts.get("OK", 0)

    @property
    def rate(self) -> float:
        """Answered calls a second."""
        return self.answered / self.wall_s

    def took_s(self, status: str = "OK", since_s: float = 0.0) -> npt.NDArray[np.float64]:
        """Return how long each call of a status took that was due no earlier, in seconds."""
        times = self.times_s.get(status, np.empty((0, 2)))
        return times[times[:, 0] >= since_s, 1]

    def goodput(self, since_s: float, until_s: float) -> float:
        """Return the answers a second that came in a window of time."""
        times = self.times_s.get("OK", np.empty((0, 2)))
        ends = times.sum(axis=1)
        return float(((ends >= since_s) & (ends < until_s)).sum()) / (until_s - since_s)


def prepared(model: str, name: str, rows: npt.NDArray[Any]) -> bytes:
    """Return a serialised request of one input in raw form."""
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype_of(rows), shape=rows.shape)
    return append_raw(request, [encode_array(rows)])


def in_base64(request: bytes) -> str:
    """Return a request as a plan holds it."""
    return base64.b64encode(request).decode("ascii")


def put(plan: Plan, progress: Callable[[int], object] = bool) -> Outcome:
    """Put a plan's load on its server.

    Args:
        plan: The load.
        progress: Called now and then with the number of calls that are over; nothing by default.

    Raises:
        BenchmarkError: The process of the load ended without a result.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.generator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            _hand_over(process, plan)
            last = _last_line(process, progress)
            complaint = process.stderr.read() if process.stderr else ""
        except BaseException:
            process.kill()
            raise
    if process.returncode or not last.startswith("{"):
        reason = (complaint.strip().splitlines() or ["no message"])[-1]
        raise BenchmarkError(f"the load on {plan.address} ended without a result: {reason}")
    return _outcome(json.loads(last))


def _hand_over(process: subprocess.Popen[str], plan: Plan) -> None:
    assert process.stdin is not None  # noqa: S101 - narrows the type
    json.dump(asdict(plan), process.stdin)
    process.stdin.close()


def _last_line(process: subprocess.Popen[str], progress: Callable[[int], object]) -> str:
    assert process.stdout is not None  # noqa: S101 - narrows the type
    line = ""
    for line in process.stdout:
        if line.strip().isdigit():
            progress(int(line))
    return line


def _outcome(told: dict[str, Any]) -> Outcome:
    return Outcome(
        wall_s=told["wall_s"],
        cpu_s=told["cpu_s"],
        counts=told["counts"],
        times_s={status: np.array(times) / 1e6 for status, times in told["times_us"].items()},
        late_s=np.array(told["late_us"], float) / 1e6,
    )


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
