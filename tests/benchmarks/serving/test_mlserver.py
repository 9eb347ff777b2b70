"""The peer answers what the graph answers, one call at a time and many, merged or not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.errors import ServerStartError
from benchmarks.serving.graphs import CLASSES, FEATURES, INPUT, MLP_OUTPUT, run_graph, write_mlp
from benchmarks.serving.mlserver import EXECUTABLE, MLServer, write_repository
from edge_runtime.cloud.model import CloudModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not EXECUTABLE.exists(), reason="no MLServer: make .venv-mlserver/.installed"
    ),
]
LABELS = [str(number) for number in range(CLASSES)]
FOREIGN = {"cloud_input": INPUT, "cloud_output": MLP_OUTPUT, "cloud_reduce": "argmax"}


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    return write_mlp(tmp_path_factory.mktemp("mlp") / "mlp.onnx")


@pytest.fixture(
    scope="module",
    params=[{}, {"max_batch_size": 8, "max_batch_time_s": 0.005}, {"workers": 1}],
    ids=["bare", "batching", "worker"],
)
def server(request, onnx_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlserver") / "repository"
    write_repository(folder, onnx_file, **request.param)
    with MLServer(folder) as running:
        yield running


def test_many_calls_at_once_get_each_its_own_answer(onnx_file, server):
    rows = np.random.default_rng(5).normal(size=(60, 2, FEATURES)).astype(np.float32)
    expected = [run_graph(onnx_file, row).argmax(1).tolist() for row in rows]
    with (
        CloudModel.open(server.address, "mlp", labels=LABELS, deadline_s=30, **FOREIGN) as cloud,
        ThreadPoolExecutor(16) as threads,
    ):
        answers = list(threads.map(cloud.infer, rows))
    assert [answer.prediction.tolist() for answer in answers] == expected
    assert len({tuple(one) for one in expected}) > 10  # a mix-up would show


def test_a_peer_listens_on_loopback_only(server):
    psutil = pytest.importorskip("psutil")
    sockets = psutil.Process(server.pid).net_connections()
    listening = [found.laddr for found in sockets if found.status == psutil.CONN_LISTEN]
    # gRPC's socket is one for IPv6 that has an IPv4 address.
    assert {ip.removeprefix("::ffff:") for ip, _ in listening} == {"127.0.0.1"}
    # gRPC, and HTTP, which MLServer does not go without.
    assert len(listening) == 2
    assert int(server.address.rpartition(":")[2]) in {port for _, port in listening}


def test_a_peer_whose_model_does_not_load_says_why(onnx_file, tmp_path):
    folder = tmp_path / "repository"
    write_repository(folder, onnx_file)
    (folder / "mlp" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ServerStartError, match=r"model\.onnx"), MLServer(folder):
        pass
