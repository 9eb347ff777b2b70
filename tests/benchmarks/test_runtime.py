"""The figures of `python -m benchmarks runtime`, each measured with a handful of calls."""

import builtins
import importlib.metadata
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import linregress

from benchmarks.commands.figures import RuntimeSettings
from benchmarks.figures import Figure, slope, write_figures
from benchmarks.processes import peak_resident_bytes, resident_bytes
from benchmarks.runtime import client as client_figures
from benchmarks.runtime import footprint, memory
from benchmarks.runtime.calls import call_figures
from benchmarks.runtime.footprint import OURS, installed_bytes
from benchmarks.untrained import random_picture
from edge_runtime.errors import GatekeeperError

FIGURE = Figure("edge call", 12.5, 15.0, "us", "50 and 62.5 us")


@pytest.fixture
def no_proc(monkeypatch):
    """A system that does not tell what memory a process holds."""
    for module in (memory, footprint):
        monkeypatch.setattr(module, "resident_bytes", lambda process=None: None)


def test_a_figure_keeps_its_limit_or_misses_it():
    assert FIGURE.is_met
    assert replace(FIGURE, value=15.0).is_met
    assert not replace(FIGURE, value=15.1).is_met
    least = replace(FIGURE, limit=0.95, at_least=True)
    assert least.is_met
    assert not replace(least, value=0.94).is_met
    assert replace(FIGURE, value=None).is_met is None


def test_a_figure_is_printed_beside_its_limit():
    line = " ".join(FIGURE.line().split())
    assert line == "edge call 12.500 us limit 15 met (50 and 62.5 us)"
    assert "MISSED" in replace(FIGURE, value=20.0).line()
    assert " 6.9e-05 " in replace(FIGURE, value=6.9e-5).line()
    assert " 0.000 " in replace(FIGURE, value=0.0).line()
    assert "at least 0.95" in replace(FIGURE, limit=0.95, at_least=True).line()
    assert "- us  limit 15  not measured  (no such library)" in (
        replace(FIGURE, value=None, detail="no such library").line()
    )


def test_figures_are_written_as_plain_json(tmp_path):
    never = replace(FIGURE, value=float("inf"))
    write_figures(tmp_path / "f.json", [FIGURE, replace(FIGURE, value=None), never])
    content = json.loads((tmp_path / "f.json").read_text())
    assert [f["met"] for f in content["figures"]] == [True, None, False]
    assert [f["value"] for f in content["figures"]] == [12.5, None, None]
    assert content["hardware"]["cores"] >= 1


def test_the_slope_is_that_of_least_squares(generator):
    x = np.arange(50.0) * 1000
    y = 3.5 * x + generator.normal(size=50)
    expected = linregress(x, y)
    assert slope(x, y) == pytest.approx((expected.slope, expected.stderr))
    assert slope(x, np.full(50, 7.0)) == (0.0, 0.0)


def test_a_process_holds_more_than_what_it_has_just_filled():
    before = resident_bytes()
    if before is None:
        pytest.skip("needs Linux' /proc")
    filled = np.ones(4_000_000)
    assert resident_bytes() - before > 0.9 * filled.nbytes
    full = resident_bytes()
    del filled
    assert peak_resident_bytes() > full - 1e6 > resident_bytes()


def test_a_process_that_is_gone_holds_nothing_that_is_known():
    assert resident_bytes(2**22 + 1) is None


def test_an_installation_is_all_that_is_needed_and_nothing_else():
    device, bare = installed_bytes([f"{OURS}[cpu]"]), installed_bytes(["numpy", "onnxruntime"])
    assert {OURS, "numpy", "onnxruntime", "grpcio", "protobuf", "fire"} <= set(device)
    assert not {"torch", "transformers", "onnx", "pillow", "scipy"} & set(device)
    assert "grpcio" not in bare
    assert set(installed_bytes([OURS])) < set(device)
    # The shared library of ONNX Runtime alone is over 20 MB; our whole source is under 10.
    assert bare["onnxruntime"] > 20e6
    assert 0.5e6 < device[OURS] < 10e6


def test_what_is_not_installed_is_said():
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        installed_bytes(["no-such-distribution"])


@pytest.mark.slow
def test_calls_are_measured(bundle):
    edge, threads = call_figures(bundle, seed=0, rounds=1)
    # A busy machine may take its time, but no call costs a hundredth of a second.
    assert -1e3 < edge.value < 1e4
    assert threads.at_least
    assert 0.1 < threads.value < 10


@pytest.mark.slow
def test_the_client_is_measured_beside_its_peers(bundle):
    deferred, client = np.reshape(client_figures.client_figures(bundle, seed=0, rounds=1), (2, 3))
    assert all(-50 < figure.value < 50 for figure in deferred)
    assert "3072" not in deferred[0].detail  # the request has a head, and the parameters
    assert all(0.01 < figure.value < 100 for figure in client)


@pytest.mark.slow
def test_without_tritonclient_the_figure_says_so(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **named):
        if name.startswith("tritonclient"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    figure = client_figures._client("localhost:1", random_picture(8, 0), 1)
    assert figure.value is None
    assert "tritonclient is not installed" in figure.detail


@pytest.mark.slow
def test_memory_is_watched_over_calls(bundle):
    edge, deferred = memory.memory_figures(bundle, 0, 300, 100)
    assert "answered 300 by edge" in edge.detail
    assert "answered 100 by cloud" in deferred.detail
    assert all(figure.unit == "B" and np.isfinite(figure.value) for figure in (edge, deferred))
    (few, _) = memory.memory_figures(bundle, 0, 2, 2)
    assert (few.value, few.detail) == (None, "2 calls are too few to tell")


@pytest.mark.slow
def test_a_process_that_fails_is_named(tmp_path):
    with pytest.raises(GatekeeperError, match=r"the process of 5 calls ended: .*bundle\.json"):
        memory.memory_figures(tmp_path, 0, 5, 5)
    with pytest.raises(GatekeeperError, match=r"before its first answer: .*bundle\.json"):
        footprint.footprint_figures(tmp_path, 1)


@pytest.mark.slow
def test_the_footprint_is_measured_beside_its_peers(bundle):
    size, *memories_and_starts, imported = footprint.footprint_figures(bundle, 1)
    edge, cloud, start, start_cloud = memories_and_starts
    assert 50 < size.value < 1000
    assert 20 < edge.value < cloud.value < 1000  # gRPC takes some
    assert all(0 < figure.value < 60 for figure in (start, start_cloud, imported))


@pytest.mark.slow
def test_a_system_that_counts_no_memory_is_named(bundle, no_proc):
    figures = memory.memory_figures(bundle, 0, 5, 5)
    figures += footprint.footprint_figures(bundle, 1)[1:3]
    assert [figure.value for figure in figures] == [None] * 4
    assert all("/proc" in figure.detail for figure in figures)


@pytest.mark.slow
def test_the_groups_that_were_asked_for_are_printed_and_written(tmp_path, capsys):
    out = tmp_path / "r.json"
    settings = RuntimeSettings(
        only=("memory", "drift"), edge_calls=10, deferred_calls=10, months=1, out=out
    )
    settings.run()
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())["figures"]
    assert all(figure["name"] in printed for figure in figures)
    assert "== drift" in printed
    assert "== client" not in printed
    assert printed.splitlines()[-1].startswith(f"{len(figures)} figures, ")
