"""The figures of `python -m benchmarks cloud`, each measured with a handful of calls."""

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.cascade.check import _committed
from benchmarks.commands.figures import CloudSettings
from benchmarks.errors import BenchmarkError, CheckError
from benchmarks.figures import Figure, check, table, write_figures
from benchmarks.processes import Server, processor_s, resident_bytes, running_server
from benchmarks.serving import connections, drain, front, graphs, load, overload, peer
from benchmarks.serving.load import check_answer, stub
from benchmarks.serving.mlserver import EXECUTABLE

pytestmark = pytest.mark.slow
BARE = "benchmarks.serving.bare_server"
REQUEST = load.in_base64(load.prepared("m", "input", np.zeros((1, 4), np.float32)))


@pytest.fixture(scope="module")
def bare():
    with running_server([BARE]) as address:
        yield address


def test_the_instant_graph_answers_with_the_first_element_of_each_row(tmp_path):
    rows = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    given = graphs.answer(graphs.instant(tmp_path / "i.onnx"), rows)
    assert given.tolist() == [[[[0]]], [[[36]]]]


def test_the_slow_graph_takes_longer_the_longer_it_is_to_take(tmp_path):
    short, long = (graphs.slow(tmp_path / f"{s}.onnx", s, 0) for s in (0.002, 0.05))
    assert graphs.run_s(long) > 2 * graphs.run_s(short)
    assert np.isfinite(graphs.answer(long, graphs.slow_row(0))).all()


def test_clients_of_a_closed_loop_call_until_the_time_is_over(bare):
    done = load.put(load.Plan(address=bare, request=REQUEST, clients=3, seconds=0.5))
    assert done.counts == {"OK": done.answered}
    assert done.took_s().size == done.answered >= 3
    assert done.wall_s >= 0.5
    assert done.rate == pytest.approx(done.answered / done.wall_s)
    assert 0 < done.cpu_s <= 2 * done.wall_s


def test_as_many_calls_are_made_as_were_asked_for(bare):
    seen = []
    plan = load.Plan(address=bare, request=REQUEST, clients=4, calls=403)
    done = load.put(plan, seen.append)
    assert done.counts == {"OK": 403}
    assert done.took_s().size == 0
    assert seen == sorted(seen)
    assert 400 - 4 <= seen[-1] <= 403


def test_calls_of_an_open_loop_come_at_their_times_however_long_the_answers_take(tmp_path):
    graph = graphs.slow(tmp_path / "slow.onnx", 0.02, 0)
    request = load.in_base64(load.prepared("slow", graphs.INPUT, graphs.slow_row(0)))
    with stub(graph, "--max-batch", "1", "--max-queue", "2") as server:
        plan = load.Plan(address=server.address, request=request, rate=200.0, seconds=1.0)
        done = load.put(plan)
    total = sum(done.counts.values())
    # Five standard deviations around the 200 of a Poisson process.
    assert 200 - 71 < total < 200 + 71
    assert done.late_s.size == total
    assert set(done.counts) == {"OK", "RESOURCE_EXHAUSTED"}
    assert done.counts["RESOURCE_EXHAUSTED"] > done.counts["OK"]


def test_the_goodput_counts_the_answers_that_came_in_a_window():
    ok = np.array([[0.0, 0.5], [0.9, 0.2], [1.0, 0.4], [1.8, 0.3], [0.5, 9.0]])
    refused = np.array([[1.0, 0.1]])
    done = load.Outcome(2.0, 0.1, {"OK": 5}, {"OK": ok, "X": refused}, np.empty(0))
    assert done.goodput(1.0, 2.0) == 2  # those that end at 1.1 and 1.4
    assert done.goodput(0.0, 0.5) == 0
    assert done.took_s("OK", 1.0).tolist() == [0.4, 0.3]
    assert done.took_s("X").tolist() == [0.1]
    assert done.took_s("none").size == 0


def test_a_load_that_is_refused_from_the_start_is_an_error_in_one_line(tmp_path):
    with stub(graphs.instant(tmp_path / "i.onnx")) as server:
        plan = load.Plan(address=server.address, request=REQUEST, seconds=0.1)
        with pytest.raises(BenchmarkError, match=r"ended without a result: NOT_FOUND: .*'m'"):
            load.put(plan)


def test_an_answer_that_is_not_the_graphs_is_an_error(tmp_path):
    graph = graphs.instant(tmp_path / "i.onnx")
    rows = np.full((1, 2, 2, 3), 7, np.uint8)
    request = load.prepared("i", graphs.INPUT, rows)
    with stub(graph) as server:
        check_answer(server.address, request, graphs.answer(graph, rows))
        with pytest.raises(BenchmarkError, match="does not answer what the graph does"):
            check_answer(server.address, request, np.array([[[[8]]]]))


def test_a_server_says_its_last_words_when_it_is_stopped(tmp_path):
    server = stub(graphs.instant(tmp_path / "i.onnx"))
    server.start()
    assert resident_bytes(server.pid) > 1e6
    assert 0 < processor_s(server.pid) < 600
    assert "stopped after 0 answered calls" in server.stop()
    assert server.pid is None
    assert server.stop() == ""


def test_the_front_is_measured_over_a_bare_handler(tmp_path):
    small, large = front.front_figures(tmp_path, 0, 2)
    assert [(f.limit, f.unit) for f in (small, large)] == [(0.3, "ms"), (0.5, "ms")]
    assert "3 KB" in small.name
    assert "602 KB" in large.name
    # Far above the limits: this machine may have other work.
    assert all(-50 < f.value < 50 and len(f.samples) == 2 for f in (small, large))


def test_an_overload_is_measured(tmp_path):
    goodput, admitted, refused = overload.overload_figures(tmp_path, 0, 1, turn_s=2.0, model_s=0.01)
    assert goodput.at_least
    assert 0 < goodput.value <= 1
    assert 0 < admitted.value < 100
    assert 0 < refused.value < 5e3
    assert "RESOURCE_EXHAUSTED" in refused.detail


def test_servers_are_drained_under_load_and_lose_nothing(bundle):
    # This bundle's pictures are 8 by 8; the graph resizes others.
    lost, arrived = drain.drain_figures(bundle, 0, 2, load_s=0.3)
    assert (lost.value, lost.is_met) == (0, True), lost.detail
    assert lost.name.startswith("2 drains")
    assert len(lost.samples) == 3
    assert (arrived.value, arrived.is_met) == (0, True), arrived.detail


def test_calls_that_were_lost_are_counted():
    calls = drain._Calls(classes=2, right=7, lost=["CloudUnavailableError: x", "1 for 2"])
    lost, arrived = drain._figures(calls, [0, 1], answered=9)
    assert (lost.value, lost.is_met) == (2, False)
    assert "9 calls" in lost.detail
    assert "CloudUnavailableError: x" in lost.detail
    assert (arrived.value, arrived.is_met) == (2, False)


def test_a_server_that_does_not_say_what_it_answered_is_an_error():
    assert drain._answered("a: 3 answered\nstopped after 5 answered calls\n") == 5
    with pytest.raises(BenchmarkError, match="says what it answered, got 'bye'"):
        drain._answered("bye")


def test_idle_connections_are_held_beside_a_busy_one(tmp_path):
    p99, memory = connections.connection_figures(tmp_path, 0, 30, rounds=1, turn_s=0.3)
    assert p99.name.startswith("30 idle connections")
    assert 0 < p99.value < 1000
    assert p99.limit is memory.limit is None
    assert math.isfinite(memory.value)


def test_connections_to_nobody_are_an_error():
    with running_server([BARE]) as address:
        pass
    with (
        pytest.raises(BenchmarkError, match=r"expected 2 connections to .*: UNAVAILABLE"),
        connections._held(address, 2),
    ):
        pass


def test_the_memory_of_a_server_is_watched_over_requests(tmp_path):
    (figure,) = front.soak_figures(tmp_path, 0, 400)
    assert "400 OK" in figure.detail
    assert figure.statistic == "slope"
    assert all(calls > 80 for calls, _ in figure.samples)
    (few,) = front.soak_figures(tmp_path, 0, 2)
    assert (few.value, few.detail) == (None, "2 requests are too few to tell")


@pytest.mark.skipif(not EXECUTABLE.exists(), reason="no MLServer: make .venv-mlserver/.installed")
def test_calls_a_second_are_measured_beside_mlserver(tmp_path):
    figures = peer.peer_figures(tmp_path, 0, 1, turn_s=0.3)
    few, many = figures[:7], figures[7:]
    for found, limit in ((few, 2.0), (many, 4.0)):
        wanted = [(limit, True), (0.5, False)] * 3 + [(None, False)]
        assert [(f.limit, f.at_least) for f in found] == wanted
    # Far above the limits: this machine may have other work.
    assert all(0.01 < f.value < 100 for f in figures)
    assert "MLServer, batching" in figures[2].detail
    assert "MLServer in one process" in figures[4].detail


def test_without_mlserver_the_figures_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(peer, "EXECUTABLE", tmp_path / "none")
    figures = peer.peer_figures(tmp_path, 0, 1)
    assert [f.value for f in figures] == [None] * 12
    assert all("MLServer is not installed" in f.detail for f in figures)


def test_the_better_of_the_peers_ways_is_the_one_compared_with():
    def turns(*pairs):
        return [peer._Turn(rate, 1.0, p99, 1.0, 1.0) for rate, p99 in pairs]

    rate, p99 = peer._over(
        "the peer's",
        16,
        turns((900, 10), (1000, 12), (1200, 11)),
        {
            "plain": turns((300, 25), (200, 30), (400, 22)),
            "batching": turns((450, 40), (500, 60), (480, 50)),
        },
    )
    assert rate.samples == (2.0, 2.0, 2.5)
    assert rate.detail.startswith("beside batching")
    assert p99.samples == (0.4, 0.4, 0.5)
    assert p99.detail.startswith("beside plain")
    assert rate.is_met
    assert p99.is_met


def test_the_processor_time_of_a_child_counts():
    before = processor_s(os.getpid())
    if before is None:
        pytest.skip("needs Linux' /proc")
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert processor_s(os.getpid()) - before > 0.4
        assert processor_s(child.pid) > 0.4
        child.stdin.write(b"\n")
    assert processor_s(child.pid) is None


def test_the_groups_that_were_asked_for_are_printed_written_and_checked(tmp_path, capsys):
    out = tmp_path / "cloud.json"
    CloudSettings(only=("front", "soak"), rounds=2, requests=100, out=out).run()
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())["figures"]
    assert all(figure["name"] in printed for figure in figures)
    assert "== front" in printed
    assert "== peer" not in printed
    assert printed.splitlines()[-1].startswith("3 figures, ")
    assert check(out) == 3


def test_a_figure_that_does_not_follow_from_its_samples_is_found(tmp_path):
    out = tmp_path / "f.json"
    rising = [[100, 10], [200, 30], [300, 50]]
    figures = [
        Figure.of("median", [1.0, 5.0, 2.0], 3.0, "ms", ""),
        Figure.of("sum", [0, 1], 0, "", "", statistic="sum"),
        Figure.of("slope", rising, 1.0, "B", "", statistic="slope"),
        Figure("never", math.inf, 1.0, "s", ""),
        Figure("not made", None, 1.0, "s", ""),
        Figure("told", 4.0, None, "s", ""),
    ]
    write_figures(out, figures)
    assert [figure.value for figure in figures[:3]] == [2.0, 1, pytest.approx(0.2)]
    assert check(out) == 6
    content = json.loads(out.read_text())
    for number, change, says in [
        (0, {"value": 2.5}, "the samples give 2.0, the file says 2.5"),
        (0, {"met": False}, "met = True, the file says False"),
        (1, {"met": True}, "met = False, the file says True"),
        (4, {"met": True}, "met = None, the file says True"),
    ]:
        wrong = json.loads(json.dumps(content))
        wrong["figures"][number] |= change
        out.write_text(json.dumps(wrong))
        with pytest.raises(CheckError, match=says):
            check(out)
    out.write_text("{}")
    with pytest.raises(CheckError, match="expected a file of figures at"):
        check(out)


def test_figures_are_a_table_for_a_page(tmp_path):
    out = tmp_path / "f.json"
    figures = [
        Figure("rate", 2.0, 4.0, "x", "beside a peer", at_least=True),
        Figure("lost", 0, 0, "", "of 9"),
        Figure("told", 4.125, None, "ms", "c"),
        Figure("never", math.inf, 1.0, "s", "d"),
        Figure("not made", None, 1.0, "s", "e"),
    ]
    write_figures(out, figures)
    assert table(out).splitlines()[2:] == [
        "| rate | 2 x | at least 4 | **missed** | beside a peer |",
        "| lost | 0 | 0 | met | of 9 |",
        "| told | 4.12 ms | - | - | c |",
        "| never | - | 1 | **missed** | d |",
        "| not made | - | 1 | - | e |",
    ]


def test_a_halted_server_is_stopped_all_the_same():
    with Server([BARE]) as server:
        server.send(signal.SIGSTOP)
        server.stop()
        assert server.pid is None


def test_the_repositorys_files_of_figures_say_what_follows():
    files = [path for path in _committed() if path.suffix == ".json"]
    assert {path.name for path in files} >= {"overhead.json", "runtime.json"}
    assert all(check(path) for path in files)
