"""The figures of `python -m benchmarks cloud`, each measured with a handful of calls."""

import json
import math

import numpy as np
import pytest

from benchmarks.commands.figures import CloudSettings
from benchmarks.errors import BenchmarkError
from benchmarks.figures import check
from benchmarks.processes import processor_s, resident_bytes, running_server
from benchmarks.serving import connections, drain, fairness, front, graphs, load, overload, peer
from benchmarks.serving.load import check_answer, stub_server
from benchmarks.serving.mlserver import EXECUTABLE

pytestmark = pytest.mark.slow
REQUEST = load.to_base64(load.serialise("m", "input", np.zeros((1, 4), np.float32)))


@pytest.fixture(scope="module")
def bare():
    with running_server(["benchmarks.serving.bare_server"]) as address:
        yield address


def test_the_instant_graph_answers_with_the_first_element_of_each_row(tmp_path):
    rows = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    answer = graphs.run_graph(graphs.write_instant(tmp_path / "i.onnx"), rows)
    assert answer.tolist() == [[[[0]]], [[[36]]]]


def test_the_slow_graph_is_scaled_to_the_time_it_should_take(tmp_path):
    short, long = (graphs.write_slow(tmp_path / f"{s}.onnx", s, 0) for s in (0.002, 0.02))
    assert graphs.run_time_s(long) > 2 * graphs.run_time_s(short)
    assert np.isfinite(graphs.run_graph(long, graphs.slow_row(0))).all()


def test_clients_of_a_closed_loop_call_until_the_time_is_over(bare):
    done = load.run_load(load.Plan(address=bare, request=REQUEST, clients=3, seconds=0.3))
    assert done.counts == {"OK": done.answered}
    assert done.durations_s().size == done.answered >= 3
    assert done.wall_s >= 0.3
    assert done.rate == pytest.approx(done.answered / done.wall_s)
    assert 0 < done.cpu_s <= 2 * done.wall_s


def test_a_plan_with_a_number_of_calls_makes_that_many(bare):
    progress = []
    plan = load.Plan(address=bare, request=REQUEST, clients=4, calls=403)
    done = load.run_load(plan, progress.append)
    assert done.counts == {"OK": 403}
    assert done.durations_s().size == 0
    assert progress == sorted(progress)
    assert 400 - 4 <= progress[-1] <= 403


def test_calls_of_an_open_loop_come_at_their_times_however_long_the_answers_take(tmp_path):
    graph = graphs.write_slow(tmp_path / "slow.onnx", 0.02, 0)
    request = load.to_base64(load.serialise("slow", graphs.INPUT, graphs.slow_row(0)))
    with stub_server(graph, "--max-batch", "1", "--max-queue", "2") as server:
        plan = load.Plan(address=server.address, request=request, rate=200.0, seconds=1.0)
        done = load.run_load(plan)
    total = sum(done.counts.values())
    # Five standard deviations around the 200 of a Poisson process.
    assert 200 - 71 < total < 200 + 71
    assert done.late_s.size == total
    assert set(done.counts) == {"OK", "RESOURCE_EXHAUSTED"}
    assert done.counts["RESOURCE_EXHAUSTED"] > done.counts["OK"]


def test_the_goodput_counts_the_answers_within_a_window():
    ok = np.array([[0.0, 0.5], [0.9, 0.2], [1.0, 0.4], [1.8, 0.3], [0.5, 9.0]])
    refused = np.array([[1.0, 0.1]])
    done = load.Outcome(2.0, 0.1, {"OK": 5}, {"OK": ok, "X": refused}, np.empty(0))
    assert done.goodput(1.0, 2.0) == 2  # those that end at 1.1 and 1.4
    assert done.goodput(0.0, 0.5) == 0
    assert done.durations_s("OK", 1.0).tolist() == [0.4, 0.3]
    assert done.durations_s("X").tolist() == [0.1]
    assert done.durations_s("none").size == 0


def test_answers_are_checked_and_a_server_reports_their_number_when_it_stops(tmp_path):
    graph = graphs.write_instant(tmp_path / "i.onnx")
    rows = np.full((1, 2, 2, 3), 7, np.uint8)
    request = load.serialise("i", graphs.INPUT, rows)
    server = stub_server(graph)
    server.start()
    check_answer(server.address, request, graphs.run_graph(graph, rows))
    with pytest.raises(BenchmarkError, match="expected the graph's answer"):
        check_answer(server.address, request, np.array([[[[8]]]]))
    plan = load.Plan(address=server.address, request=REQUEST, seconds=0.1)
    with pytest.raises(BenchmarkError, match=r"ended without a result: NOT_FOUND: .*'m'"):
        load.run_load(plan)
    assert resident_bytes(server.pid) > 1e6
    assert 0 < processor_s(server.pid) < 600
    assert drain._answered(server.stop()) == 2


def test_the_front_is_compared_with_a_bare_handler(tmp_path):
    small, large = front.measure_front(tmp_path, 0, 2)
    assert [(f.limit, f.unit) for f in (small, large)] == [(0.3, "ms"), (0.5, "ms")]
    assert "3 KB" in small.name
    assert "602 KB" in large.name
    # Far above the limits: this machine may have other work.
    assert all(-50 < f.value < 50 and len(f.samples) == 2 for f in (small, large))


def test_an_overload_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(overload, "_LOADS", (1.0, 3.0))
    monkeypatch.setattr(overload, "_WARM_UP_S", 0.3)
    goodput, admitted, refused = overload.measure_overload(tmp_path, 0, 1, turn_s=1.3, model_s=0.01)
    assert goodput.at_least
    assert 0 < goodput.value <= 1
    assert 0 < admitted.value < 100
    assert 0 < refused.value < 5e3
    assert "RESOURCE_EXHAUSTED" in refused.detail


def test_a_caller_is_measured_beside_large_calls_of_another(bundle, monkeypatch):
    calls = [("3 pictures", fairness._arrays(np.zeros((3, 8, 8, 3), np.uint8)))]
    monkeypatch.setattr(fairness, "_large_calls", lambda *_: calls)
    monkeypatch.setattr(fairness, "small_cnn_bundle", lambda *_: bundle)
    ratio, memory = fairness.measure_fairness(bundle, 0, 1, turn_s=0.5, side=8)
    assert ratio.name == "p99 of one picture, beside 3 pictures / alone"
    assert (ratio.limit, ratio.unit) == (4.0, "x")
    assert 0 < ratio.value < 1e4
    assert " 0 answered" not in ratio.detail
    assert math.isfinite(memory.value)


def test_servers_are_drained_under_load_and_lose_nothing(bundle):
    # This bundle's pictures are 8 by 8; the graph resizes others.
    lost, arrived = drain.measure_drains(bundle, 0, 2, load_s=0.3)
    assert (lost.value, lost.is_met) == (0, True), lost.detail
    assert lost.name.startswith("2 drains")
    assert len(lost.samples) == 3
    assert (arrived.value, arrived.is_met) == (0, True), arrived.detail


def test_lost_calls_are_counted():
    calls = drain._Calls(classes=2, right=7, lost=["CloudUnavailableError: x", "1 for 2"])
    lost, arrived = drain._figures(calls, [0, 1], answered=9)
    assert (lost.value, lost.is_met) == (2, False)
    assert "9 calls" in lost.detail
    assert "CloudUnavailableError: x" in lost.detail
    assert (arrived.value, arrived.is_met) == (2, False)


def test_a_server_that_reports_no_answers_is_an_error():
    assert drain._answered("a: 3 answered\nstopped after 5 answered calls\n") == 5
    with pytest.raises(BenchmarkError, match="count of answers, got 'bye'"):
        drain._answered("bye")


def test_idle_connections_are_held_next_to_a_busy_one(tmp_path):
    p99, memory = connections.measure_connections(tmp_path, 0, 30, rounds=1, turn_s=0.3)
    assert p99.name.startswith("30 idle connections")
    assert 0 < p99.value < 1000
    assert p99.limit is memory.limit is None
    assert math.isfinite(memory.value)


def test_connections_to_nobody_are_an_error():
    with (
        pytest.raises(BenchmarkError, match=r"expected 2 connections to .*: UNAVAILABLE"),
        connections._held("127.0.0.1:1", 2),
    ):
        pass


@pytest.mark.skipif(not EXECUTABLE.exists(), reason="no MLServer: make .venv-mlserver/.installed")
def test_calls_a_second_are_compared_with_mlserver(tmp_path, monkeypatch):
    # One of the comparisons: how MLServer answers with each setting is tested on its own.
    name, comparison = next(iter(peer._PEERS.items()))
    monkeypatch.setattr(peer, "_PEERS", {name: comparison})
    monkeypatch.setattr(peer, "_CLIENTS", {16: 2.0})
    rate, p99, bare = peer.measure_peers(tmp_path, 0, 1, turn_s=0.3)
    # Far above the limits: this machine may have other work.
    assert all(0.01 < figure.value < 100 for figure in (rate, p99, bare))
    assert rate.name == "16 clients: calls/s, ours / MLServer, both with defaults"
    assert rate.detail.startswith("against MLServer; ours ")
    assert bare.limit is None


def test_without_mlserver_the_figures_and_their_limits_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(peer, "EXECUTABLE", tmp_path / "none")
    figures = peer.measure_peers(tmp_path, 0, 1)
    assert [f.value for f in figures] == [None] * 12
    assert all("MLServer is not installed" in f.detail for f in figures)
    for half, limit in ((figures[:6], 2.0), (figures[6:], 4.0)):
        assert [(f.limit, f.at_least) for f in half] == [(limit, True), (0.5, False)] * 3


def test_the_best_variant_of_the_peer_is_the_one_compared_with():
    def turns(*pairs):
        return [peer._Turn(rate, 1.0, p99, 1.0, 1.0) for rate, p99 in pairs]

    rate, p99 = peer._compare(
        "the peer",
        16,
        turns((900, 10), (1000, 12), (1200, 11)),
        {
            "plain": turns((300, 25), (200, 30), (400, 22)),
            "batching": turns((450, 40), (500, 60), (480, 50)),
        },
    )
    assert rate.samples == (2.0, 2.0, 2.5)
    assert rate.detail.startswith("against batching")
    assert p99.samples == (0.4, 0.4, 0.5)
    assert p99.detail.startswith("against plain")
    assert rate.is_met
    assert p99.is_met


def test_the_chosen_groups_are_printed_written_and_checked(tmp_path, capsys):
    out = tmp_path / "cloud.json"
    CloudSettings(only=("soak",), requests=400, out=out).run()
    printed = capsys.readouterr().out
    (figure,) = json.loads(out.read_text())["figures"]
    assert figure["name"] in printed
    assert "400 OK" in figure["detail"]
    assert figure["statistic"] == "slope"
    assert all(calls > 80 for calls, _ in figure["samples"])
    assert "== soak" in printed
    assert "== peer" not in printed
    assert printed.splitlines()[-1].startswith("1 figures, ")
    assert check(out) == 1
