"""Tiny exported bundles, and real servers in processes of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tools.faulty_graphs import write_moody_graph
from tools.graphs import write_zoo

from edge_runtime import EdgeModel, contract
from edge_runtime.inputs.batches import blank_input

LABELS = ("dark", "middling", "bright")
READY_WITHIN_S = 30.0
SLOW_S = 0.6


def metadata_of(labels: tuple[str, ...]) -> contract.GateMetadata:
    return contract.GateMetadata(
        contract_version=1,
        task="image-classification",
        confidence_kind="max_softmax",
        confidence_range=(1 / len(labels), 1.0),
        threshold=0.5,
        labels=labels,
        input=contract.InputDescription(
            name="image", dtype="uint8", shape=("batch", "height", "width", 3)
        ),
    )


def write_bundle(folder: Path, *, work: int = 0, slope: float = 1) -> Path:
    """Write a classifier that answers by an image's mean brightness m.

    Its logits are (3 (1 - m/255), 1.5, 3 m/255). `work` matrix products of 1024 x 1024 slow a call
    down. With a slope of 0 every image is dark.
    """
    weights = np.array([[-3 / 255, 0, 3 / 255]], np.float32) * np.float32(slope)
    bias = np.array([3, 1.5, 0], np.float32)
    constants = {
        "weights": weights,
        "bias": bias,
        "side": np.array([-1, 1], np.int64),
        "axes": np.array([1, 2, 3], np.int64),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "side"], ["column"]),
        *_busy_nodes(work, constants),
        helper.make_node("Gemm", ["column" if not work else "late", "weights", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["prediction"], axis=1, keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "one"], ["confidence"], keepdims=0),
        helper.make_node("GreaterOrEqual", ["confidence", "threshold"], ["sure"]),
        helper.make_node("Not", ["sure"], ["defer"]),
    ]
    constants["threshold"] = np.array(0.5, np.float32)
    graph = helper.make_graph(
        nodes,
        "brightness",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "h", "w", 3]),
            helper.make_tensor_value_info("threshold", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("prediction", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("defer", TensorProto.BOOL, ["batch"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    metadata = metadata_of(LABELS).to_json()
    helper.set_model_props(model, {contract.METADATA_KEY: metadata})
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    sha256 = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    description = {
        "graphs": {"classifier": "model.onnx"},
        "metadata": json.loads(metadata),
        "files": {"model.onnx": sha256},
        "verification": {},
    }
    (folder / "bundle.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def _busy_nodes(work: int, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    """Return nodes that multiply by a matrix repeatedly and add 0 times the result to the mean."""
    if not work:
        return []
    constants["matrix"] = np.full((1024, 1024), 1 / 1024, np.float32)
    constants["zero"] = np.array(0, np.float32)
    constants["both"] = np.array([0, 1], np.int64)
    # Starting from the input keeps the optimiser from folding it all away.
    nodes = [
        helper.make_node("ReduceMax", ["column", "both"], ["top"], keepdims=0),
        helper.make_node("Add", ["matrix", "top"], ["work0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"work{n}", "matrix"], [f"work{n + 1}"]) for n in range(work)
    ]
    return [
        *nodes,
        helper.make_node("ReduceMax", [f"work{work}", "both"], ["last"], keepdims=0),
        helper.make_node("Mul", ["last", "zero"], ["product"]),
        helper.make_node("Add", ["column", "product"], ["late"]),
    ]


@dataclass
class Server:
    """A running server process."""

    process: subprocess.Popen[str]
    ready_line: str
    address: str
    errors: list[str] = field(default_factory=list)

    def stop(self, number: int = signal.SIGTERM, within_s: float = 30.0) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within_s)

    def resident_bytes(self) -> int:
        """Return the memory that the process occupies."""
        return self.memory_bytes("VmRSS")

    def peak_bytes(self) -> int:
        """Return the most memory that the process ever occupied."""
        return self.memory_bytes("VmHWM")

    def memory_bytes(self, name: str) -> int:
        """Return a figure of the process, in bytes, by the name that Linux gives it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith(name)]
        return int(line.split()[1]) * 1024


def start_server(*words: str) -> Server:
    """Start `python -m cloud_stub WORDS` and wait for its ready line."""
    command = [sys.executable, "-m", "cloud_stub", *words]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    lines: queue.Queue[str] = queue.Queue()
    errors: list[str] = []
    threading.Thread(target=_forward, args=(process.stdout, lines.put), daemon=True).start()
    threading.Thread(target=_forward, args=(process.stderr, errors.append), daemon=True).start()
    try:
        line = lines.get(timeout=READY_WITHIN_S)
    except queue.Empty:
        process.kill()
        process.wait()
        raise AssertionError(f"no ready line: {''.join(errors)}") from None
    return Server(process, line, line.split()[-1], errors)


def _forward(stream, put) -> None:
    with stream, contextlib.suppress(ValueError):
        for line in stream:
            put(line)


def run_server(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line that ends on its own."""
    command = [sys.executable, "-m", "cloud_stub", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="session")
def start():
    """Start a server; the caller has to stop it."""
    return start_server


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "brightness")


@pytest.fixture(scope="session")
def slow_bundle(tmp_path_factory) -> Path:
    """A bundle with calls of at least `SLOW_S` seconds, however fast this machine is."""
    folder, trial = tmp_path_factory.mktemp("bundles"), 20
    model = EdgeModel.open(write_bundle(folder / "trial", work=trial))
    took_s = []
    for _ in range(3):
        begin = time.perf_counter()
        model(model.reader.single(blank_input(model.metadata.input)))
        took_s.append(time.perf_counter() - begin)
    return write_bundle(folder / "slow", work=round(trial * SLOW_S / min(took_s)))


@pytest.fixture(scope="session")
def certain_bundle(tmp_path_factory) -> Path:
    """A bundle that is always sure, of its only answer: dark."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "certain", slope=0)


@pytest.fixture(scope="session")
def server(bundle) -> Iterator[Server]:
    """One server for all tests; none of them may harm it."""
    running = start_server("--bundle", str(bundle), "--port", "0")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def zoo(bundle, tmp_path_factory) -> Iterator[Server]:
    """One server of many models for all tests; none of them may harm it."""
    models = write_zoo(tmp_path_factory.mktemp("zoo"), bundle)
    running = start_server("--models", str(models), "--port", "0", "--max-message-mib", "64")
    yield running
    assert running.stop() == 0
    assert "Traceback" not in "".join(running.errors)


@pytest.fixture
def launch() -> Iterator:
    """Start servers that are killed after the test."""
    started: list[Server] = []

    def start(*words: str) -> Server:
        started.append(start_server(*words))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def run_command():
    return run_server


@dataclass
class QuietClients:
    """Connections without calls, opened long before a test looks at them.

    Attributes:
        states: (Seconds since the opening, state) of a channel that pings.
        closed_s: Seconds until the server closed a socket that sends nothing.
    """

    start: float = field(default_factory=time.monotonic)
    states: list[tuple[float, grpc.ChannelConnectivity]] = field(default_factory=list)
    closed_s: float | None = None

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.start

    def watch(self, silent: socket.socket) -> None:
        """Read from a socket to its end."""
        while silent.recv(1 << 12):  # the server's own settings
            pass
        self.closed_s = self.age_s


@pytest.fixture(scope="session")
def quiet_clients(server) -> Iterator[QuietClients]:
    options = [
        ("grpc.keepalive_time_ms", 5_100),  # gRPC pings no sooner; the server allows one every 5 s
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    clients = QuietClients()
    host, port = server.address.split(":")
    silent = socket.create_connection((host, int(port)))
    threading.Thread(target=clients.watch, args=(silent,), daemon=True).start()
    with silent, grpc.insecure_channel(server.address, options) as pinging:
        grpc.channel_ready_future(pinging).result(10)
        pinging.subscribe(lambda state: clients.states.append((clients.age_s, state)))
        yield clients
        silent.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def channel(server, quiet_clients) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(scope="session")
def moody(tmp_path_factory):
    """A graph that follows an order in each row; see `tools.faulty_graphs`."""
    return write_moody_graph(tmp_path_factory.mktemp("graphs") / "moody.onnx")


@pytest.fixture
def launch_moody(moody, launch):
    """Start a server of that graph on one thread, with further flags."""
    return lambda *words: launch(
        "--onnx", str(moody.path), "--allow-loops", "--threads", "1", "--port", "0", *words
    )
