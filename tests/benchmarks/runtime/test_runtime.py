"""The figures of `python -m benchmarks runtime`, each measured with a handful of calls."""

import builtins
import importlib.metadata
import json

import grpc
import numpy as np
import pytest

from benchmarks.commands.figures import RuntimeSettings
from benchmarks.errors import BenchmarkError
from benchmarks.processes import NOT_COUNTED, running_server
from benchmarks.runtime import calls, client, footprint, memory
from benchmarks.runtime.footprint import OURS, installed_bytes
from benchmarks.untrained import random_picture
from edge_runtime.wire import messages as pb


def test_an_installation_is_all_that_is_needed_and_nothing_else():
    device, bare = installed_bytes([f"{OURS}[cpu]"]), installed_bytes(["numpy", "onnxruntime"])
    assert {OURS, "numpy", "onnxruntime", "grpcio", "protobuf", "fire"} <= set(device)
    assert not {"torch", "transformers", "onnx", "pillow", "scipy"} & set(device)
    assert "grpcio" not in bare
    assert set(installed_bytes([OURS])) < set(device)
    # The shared library of ONNX Runtime alone is over 20 MB; our whole source is under 10.
    assert bare["onnxruntime"] > 20e6
    assert 0.5e6 < device[OURS] < 10e6


def test_a_missing_distribution_is_an_error():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        installed_bytes(["no-such-distribution"])


@pytest.mark.slow
def test_calls_are_measured(bundle, monkeypatch):
    monkeypatch.setattr(calls, "_LARGER_SIDE", 48)
    edge, ratio, threads = calls.measure_calls(bundle, seed=0, rounds=1)
    # A busy machine may take its time, but no call costs a hundredth of a second.
    assert -1e3 < edge.value < 1e4
    assert 0.1 < ratio.value < 100
    assert threads.at_least
    assert 0.1 < threads.value < 10


@pytest.mark.slow
def test_the_client_is_measured_against_its_peers(bundle):
    deferred, alone = np.reshape(client.measure_client(bundle, seed=0, rounds=1), (2, 3))
    assert all(-50 < figure.value < 50 for figure in deferred)
    assert "3072" not in deferred[0].detail  # the request has a head, and the parameters
    assert all(0.01 < figure.value < 100 for figure in alone)


@pytest.mark.slow
def test_the_echo_server_is_ready_and_knows_no_more():
    with (
        running_server(["benchmarks.runtime.echo_server"]) as address,
        grpc.insecure_channel(address) as channel,
    ):
        reply = channel.unary_unary(pb.METHODS["ModelReady"], None, None)(b"", timeout=20)
        assert pb.ModelReadyResponse.FromString(reply).ready
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            channel.unary_unary(pb.METHODS["ServerLive"], None, None)(b"", timeout=20)


def test_without_tritonclient_the_figure_says_so(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **named):
        if name.startswith("tritonclient"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    figure = client._client("localhost:1", random_picture(8, 0), 1)
    assert figure.value is None
    assert "tritonclient is not installed" in figure.detail


@pytest.mark.slow
def test_memory_is_watched_over_calls(bundle):
    edge, deferred = memory.measure_memory(bundle, 0, 300, 100)
    assert "answered 300 by edge" in edge.detail
    assert "answered 100 by cloud" in deferred.detail
    assert all(figure.unit == "B" and np.isfinite(figure.value) for figure in (edge, deferred))


def test_growth_is_the_slope_of_the_memory_after_the_warm_up():
    samples = [(10, 9e6), (20, 1e6), (30, 1.2e6), (50, 1.4e6), (100, 2e6)]
    figure = memory.growth_figure("growth", samples, 100, "answered 100 by edge")
    assert figure.samples == tuple(samples[2:])
    x, y = np.array(samples[2:]).T
    assert figure.value == pytest.approx(np.polyfit(x, y, 1)[0])
    assert "1.20 MB after 30 calls, 2.00 MB after 100, most 2.00" in figure.detail
    few = memory.growth_figure("growth", samples[:2], 20, "")
    assert (few.value, few.detail) == (None, "20 calls are too few for a slope")


@pytest.mark.slow
def test_a_process_that_fails_is_named(tmp_path):
    with pytest.raises(BenchmarkError, match=r"runtime\.memory failed: .*bundle\.json"):
        memory.measure_memory(tmp_path, 0, 5, 5)
    with pytest.raises(BenchmarkError, match=r"before its first answer: .*bundle\.json"):
        footprint.measure_footprint(tmp_path, 1)


@pytest.mark.slow
def test_the_footprint_is_measured_against_its_peers(bundle):
    size, *memories_and_starts, imported = footprint.measure_footprint(bundle, 1)
    edge, cloud, start, start_cloud = memories_and_starts
    assert 50 < size.value < 1000
    assert 20 < edge.value < cloud.value < 1000  # gRPC takes some
    assert all(0 < figure.value < 60 for figure in (start, start_cloud, imported))


def test_a_system_that_counts_no_memory_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda process=None: None)
    started = footprint._Start(0.1, None)
    figures = [
        memory._growth("growth", tmp_path, 0, 5),
        footprint._memory("memory", started, started, "onnxruntime"),
    ]
    assert [(figure.value, figure.detail) for figure in figures] == [(None, NOT_COUNTED)] * 2


@pytest.mark.slow
def test_the_chosen_groups_are_printed_and_written(tmp_path, capsys):
    out = tmp_path / "r.json"
    RuntimeSettings(only=("drift",), months=1, out=out).run()
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())["figures"]
    assert all(figure["name"] in printed for figure in figures)
    assert "== drift" in printed
    assert "== client" not in printed
    assert printed.splitlines()[-1].startswith(f"{len(figures)} figures, ")
