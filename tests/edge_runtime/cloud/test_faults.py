"""Whatever fails between device and cloud, each input gets a right answer in time."""

import ast
import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tools.clock import WallClock
from tools.engines import Engine
from tools.link import Link
from tools.processes import ROOT, heed_ctrl_c, wait_for

from edge_runtime import BundleError, Cascade, Source
from edge_runtime.cloud.breaker import BreakerSettings
from edge_runtime.cloud.model import CloudModel
from edge_runtime.errors import CloudRejectedError
from export.commands.retune import RetuneSettings

pytestmark = pytest.mark.slow

DEADLINE_S = 0.5
MARGIN_S = 0.5
"""Margin for a busy machine; the tests only have to show that nothing hangs."""
RECOVERY_S = 3.0
QUICK = BreakerSettings(failures=2, probe_interval_s=0.2)


@pytest.fixture
def pictures(generator):
    return generator.integers(0, 256, (4, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def healthy():
    """An engine that no test here harms."""
    with Engine() as engine:
        yield engine


@pytest.fixture
def engine():
    with Engine() as engine:
        yield engine


@pytest.fixture
def link(healthy):
    with Link(healthy.port, seed=1) as link:
        yield link


@pytest.fixture
def open_cascade(bundle):
    """Open cascades that defer everything, and close them at the end."""
    opened = []

    def open_it(address, **options):
        options = {"deadline_s": DEADLINE_S, "threshold": 2.0, "breaker": QUICK} | options
        opened.append(Cascade.open(bundle, cloud=address, **options))
        return opened[-1]

    yield open_it
    for cascade in opened:
        cascade.close()


def ask(cascade, pictures, *, deadline_s=DEADLINE_S):
    """Answer a batch, and check what holds for every answer; return (source, error)."""
    begin = time.monotonic()
    answers = cascade.batch(pictures, deadline_s=deadline_s)
    assert time.monotonic() - begin < deadline_s + MARGIN_S
    small = cascade.edge(pictures).prediction.tolist()
    assert len(answers) == len(pictures)
    for picture, prediction, answer in zip(pictures, small, answers, strict=True):
        wanted = picture[0, 0, 0] % 10 if answer.source is Source.CLOUD else prediction
        assert (answer.prediction, answer.label) == (wanted, str(wanted))
        assert answer.deferred
        assert (answer.error is None) == (answer.source is Source.CLOUD)
    sources = {(answer.source, answer.error) for answer in answers}
    assert len(sources) == 1  # all rows were in one request
    return sources.pop()


def falls_back(cascade, pictures, *kinds):
    """Send inputs until the circuit is open; return the last error, each one of these kinds."""
    for _ in range(QUICK.failures + 2):
        source, error = ask(cascade, pictures)
        assert source is Source.EDGE_FALLBACK
        # After enough failures nothing is sent.
        is_unasked = "circuit breaker is open" in error
        allowed = ("CloudCircuitOpenError",) if is_unasked else kinds
        assert error.split(":")[0] in allowed
    return error


def recovers(cascade, pictures):
    """Send inputs until the cloud answers, within seconds; it must continue to answer."""
    begin = time.monotonic()
    while ask(cascade, pictures)[0] is not Source.CLOUD:
        assert time.monotonic() - begin < RECOVERY_S
        time.sleep(0.02)
    for _ in range(5):
        assert ask(cascade, pictures) == (Source.CLOUD, None)


def test_a_server_killed_in_the_middle_of_a_call(open_cascade, pictures):
    answers = []
    with Engine("slow") as engine:
        cascade = open_cascade(engine.address, deadline_s=20)
        call = threading.Thread(target=lambda: answers.append(cascade.batch(pictures)))
        call.start()
        time.sleep(0.5)
        engine.kill()
        begin = time.monotonic()
        call.join()
        assert time.monotonic() - begin < 5  # far from the deadline
        (rows,) = answers
        assert {row.source for row in rows} == {Source.EDGE_FALLBACK}
        assert all("CloudUnavailableError" in row.error for row in rows)
        assert len(rows) == len(pictures)
        engine.start("pixel")
        recovers(cascade, pictures)


def test_a_server_started_again_on_its_port(engine, open_cascade, pictures):
    cascade = open_cascade(engine.address)
    for _ in range(2):
        recovers(cascade, pictures)
        engine.kill()
        error = falls_back(cascade, pictures, "CloudUnavailableError")
        assert "circuit breaker is open" in error
        engine.start()
    recovers(cascade, pictures)


def test_a_server_that_is_stopped_and_continued(engine, open_cascade, pictures):
    cascade = open_cascade(engine.address)
    recovers(cascade, pictures)
    engine.stop()
    falls_back(cascade, pictures, "CloudDeadlineError", "CloudUnavailableError")
    begin = time.monotonic()
    assert "circuit breaker is open" in ask(cascade, pictures)[1]
    assert time.monotonic() - begin < DEADLINE_S  # nothing waits
    time.sleep(1)  # a probe meets the stopped server
    engine.resume()
    recovers(cascade, pictures)


def test_a_server_that_comes_after_its_clients(engine, open_cascade, pictures):
    engine.kill()
    cascade = open_cascade(engine.address)
    falls_back(cascade, pictures, "CloudUnavailableError")
    engine.start()
    recovers(cascade, pictures)


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("slow", "CloudDeadlineError", "no answer within 0.5 s"),
        ("RESOURCE_EXHAUSTED", "CloudOverloadedError", "is overloaded"),
        ("INTERNAL", "CloudRejectedError", "see the server's log"),
        ("garbage", "CloudProtocolError", "expected a inference.ModelInferResponse"),
        ("rows", "CloudProtocolError", "prediction as int64 [4], got int64 [5]"),
        ("crossed", "CloudProtocolError", "expected the answer's id"),  # that of the call before
        ("unknown-label", "CloudProtocolError", "'unicorn' is none of"),
    ],
)
def test_a_server_that_answers_badly_and_is_repaired(mode, kind, says, open_cascade, pictures):
    with Engine(mode) as engine:
        cascade = open_cascade(engine.address)
        source, error = ask(cascade, pictures)
        assert source is Source.EDGE_FALLBACK
        assert error.startswith(kind)
        assert says in error
        falls_back(cascade, pictures, kind, "CloudUnavailableError")
        engine.kill()
        engine.start("pixel")
        recovers(cascade, pictures)


def test_a_link_that_is_cut_and_healed(link, open_cascade, pictures):
    cascade = open_cascade(link.address)
    for _ in range(2):
        recovers(cascade, pictures)
        link.cut()
        falls_back(cascade, pictures, "CloudUnavailableError")
        link.heal()
    recovers(cascade, pictures)


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("fault", ["hold", "lose"])
def test_a_link_that_is_dead_one_way(fault, way, link, open_cascade, pictures):
    cascade = open_cascade(link.address)
    recovers(cascade, pictures)
    getattr(link, fault)(way)
    falls_back(cascade, pictures, "CloudDeadlineError", "CloudUnavailableError")
    link.heal()
    recovers(cascade, pictures)


def test_a_link_that_loses_its_old_connections_only(link, open_cascade, pictures):
    # Like a router that forgets connections silently: only a new one gets through.
    cascade = open_cascade(link.address)
    recovers(cascade, pictures)
    link.lose("up", "down")
    assert ask(cascade, pictures)[1].startswith("CloudDeadlineError")
    link.heal()
    recovers(cascade, pictures)


def test_a_link_that_stalls_a_fifth_of_what_it_carries(link, open_cascade, pictures):
    cascade = open_cascade(link.address)
    recovers(cascade, pictures)
    link.stall(share=0.2, pause_s=0.2)
    sources = [ask(cascade, pictures)[0] for _ in range(15)]
    assert sources.count(Source.CLOUD) >= 10
    link.heal()
    recovers(cascade, pictures)


def test_a_link_that_is_slow_but_not_too_slow(link, open_cascade, pictures):
    cascade = open_cascade(link.address, deadline_s=2)
    link.delay(0.15)
    begin = time.monotonic()
    assert ask(cascade, pictures, deadline_s=2)[0] is Source.CLOUD
    assert time.monotonic() - begin >= 0.3  # there and back
    link.delay(10)
    assert ask(cascade, pictures)[1].startswith("CloudDeadlineError")


# A connection's first bytes from the server: settings, headers, the answers, trailers; 390 in all.
@pytest.mark.parametrize("at", [1, 20, 60, 100, 150, 250])
def test_a_reply_that_is_cut_short(at, link, open_cascade, pictures):
    cascade = open_cascade(link.address)
    link.truncate(at)
    falls_back(cascade, pictures, "CloudUnavailableError", "CloudDeadlineError")
    link.heal()
    recovers(cascade, pictures)


def test_a_reply_that_is_altered_on_its_way(link, open_cascade, pictures):
    seen = set()
    for at in range(0, 400, 12):
        link.corrupt(at, 3)
        # A connection of its own for each: what is altered is counted from its first byte.
        _, error = ask(open_cascade(link.address), pictures)
        seen.add("answered" if error is None else error.split(":")[0])
    # Three inverted bytes in a confidence or behind the reply's end do no harm to the answer.
    assert seen <= {
        "answered",
        "CloudDeadlineError",
        "CloudProtocolError",
        "CloudUnavailableError",  # and no CloudRejectedError: the server refused nothing
    }
    assert {"answered", "CloudUnavailableError", "CloudProtocolError"} <= seen
    cascade = open_cascade(link.address)
    link.corrupt(0, 1 << 20)
    falls_back(cascade, pictures, "CloudUnavailableError", "CloudDeadlineError")
    link.heal()
    recovers(cascade, pictures)


def test_a_message_too_large_for_the_server_is_not_called_overload(open_cascade, pictures):
    with Engine(max_bytes=150) as engine:
        # gRPC's servers take a fraction of a second to refuse it.
        cascade = open_cascade(engine.address, deadline_s=20)
        for _ in range(QUICK.failures + 1):
            source, error = ask(cascade, pictures[:1], deadline_s=20)
            assert source is Source.EDGE_FALLBACK
            assert error.startswith("CloudRejectedError")
            assert "send smaller inputs" in error
        # Nor does it count as an outage.
        assert not cascade.cloud.breaker.is_open


def test_pictures_that_are_too_large_together_are_sent_in_parts(open_cascade, pictures):
    with Engine(max_bytes=400) as engine:
        cascade = open_cascade(engine.address, deadline_s=20)
        assert ask(cascade, pictures, deadline_s=20)[0] is Source.CLOUD


def test_a_message_too_large_for_the_client_is_not_called_overload(healthy):
    labels = [str(i) for i in range(10)]
    with CloudModel.open(healthy.address, labels=labels, breaker=QUICK) as cloud:
        for _ in range(QUICK.failures):
            with pytest.raises(CloudRejectedError, match="send smaller inputs"):
                cloud.infer(np.zeros((1, 4800, 4800, 3), np.uint8), deadline_s=20)
        assert cloud.infer(np.zeros((1, 8, 8, 3), np.uint8), deadline_s=20).label == ["0"]


def test_64_threads_on_one_cascade(open_cascade, bundle, generator):
    with Engine("once") as engine:
        pictures = generator.integers(0, 256, (64 * 16, 8, 8, 3), np.uint8)
        cascade = open_cascade(engine.address, deadline_s=30)
        confidence = cascade.edge(pictures).confidence
        # Half of them are deferred.
        cascade = open_cascade(
            engine.address, deadline_s=30, threshold=float(np.median(confidence))
        )
        wanted = [(a.prediction, a.source) for a in cascade.batch(pictures)]
        assert sum(source is Source.CLOUD for _, source in wanted) == len(pictures) // 2
        alone = cascade.request_bytes
        answers = [None] * len(pictures)

        def call(thread):
            for row in range(thread, len(pictures), 64):
                assert answers[row] is None
                answers[row] = cascade(pictures[row])

        threads = [threading.Thread(target=call, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        assert [answer and (answer.prediction, answer.source) for answer in answers] == wanted
        assert not any(answer.error for answer in answers)
        assert cascade.request_bytes > alone


def test_a_bundle_that_is_harmed_under_an_open_cascade(bundle, tmp_path, pictures):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    with Cascade.open(copy) as cascade:
        before = [(answer.label, answer.confidence) for answer in cascade.batch(pictures)]
        os.truncate(copy / "model.onnx", 100)
        assert [(a.label, a.confidence) for a in cascade.batch(pictures)] == before
        # Like an interrupted update: the open cascade continues, a new one is refused.
        with pytest.raises(BundleError, match="altered or truncated"):
            Cascade.open(copy)


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_a_file_of_another_bundle_is_refused(name, bundle, tmp_path):
    other, copy = (shutil.copytree(bundle, tmp_path / name) for name in ("other", "copy"))
    RetuneSettings(bundle=other, threshold=0.25).run()
    shutil.copy(other / name, copy / name)
    with pytest.raises(BundleError, match="altered or truncated"):
        Cascade.open(copy)


@contextlib.contextmanager
def calling(bundle, address, scenario, *, stdout=subprocess.PIPE, environment=os.environ):
    """Run a scenario of `tools/caller.py`."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "tools" / "caller.py", bundle, address, scenario],
        env={**environment, "PYTHONPATH": str(ROOT)},  # this very tree, wherever another is
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - it calls one function of the kernel
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def silent_address():
    """An address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("scenario", ["call", "probing"])
def test_ctrl_c_takes_effect_at_once(scenario, bundle, silent_address):
    with calling(bundle, silent_address, scenario) as process:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.stdout.readline() == "closed\n"
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - begin < 2
        assert process.stderr.read() == ""


@pytest.mark.parametrize("dead", [False, True])
def test_a_program_that_closes_nothing_ends_in_the_middle_of_a_probe(dead, bundle, silent_address):
    address = "127.0.0.1:9" if dead else silent_address
    with calling(bundle, address, "unclosed") as process:
        out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    assert "CloudUnavailableError" in out or "CloudDeadlineError" in out


def test_a_cascade_in_a_forked_child_fails_with_a_message(bundle, healthy):
    with calling(bundle, healthy.address, "fork") as process:
        out, _ = process.communicate(timeout=60)
    first, child, parent, closed = out.splitlines()
    assert "fork" in child
    assert (first, parent, closed) == ("cloud", "parent: cloud", "closed")
    assert process.returncode == 0


def test_a_wall_clock_that_jumps(engine, bundle, tmp_path):
    clock = WallClock(tmp_path)
    hour = 3600

    def jump(*shifts, pause_s=0.2):
        for shift in shifts:
            clock.jump(shift * hour)
            time.sleep(pause_s)

    report = tmp_path / "calls"
    told = {"environment": clock.environment}
    with (
        report.open("w") as file,
        calling(bundle, engine.address, "stream", stdout=file, **told) as process,
    ):

        def answers(begin):
            wait_for(lambda: "cloud" in report.read_text()[begin:], process)

        answers(0)
        jump(5, -5, 24 * 400, 0)
        stopped = time.monotonic()
        engine.stop()
        jump(1, -1, 5, -5, 0, pause_s=0.35)  # calls are waiting for their deadline
        engine.resume()
        continued = time.monotonic()
        answers(report.stat().st_size + 200)
        engine.kill()
        killed = time.monotonic()
        time.sleep(0.5)
        jump(*range(5, -4, -1))  # the circuit is open, and every wait between probes sees a jump
        engine.start()
        returned = time.monotonic()
        answers(report.stat().st_size + 200)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    calls = [line.split("\t") for line in report.read_text().splitlines()]
    calls = [(float(start), float(took), source, why) for start, took, source, why in calls]
    assert max(took for _, took, _, _ in calls) < DEADLINE_S + MARGIN_S
    late = [took for _, took, _, why in calls if why.startswith("CloudDeadlineError")]
    assert len(late) >= 3
    assert min(late) > DEADLINE_S - 0.05  # no jump ends a wait early
    assert {source for start, _, source, _ in calls if start < stopped - DEADLINE_S} == {"cloud"}
    for back, end in ((continued, killed), (returned, math.inf)):
        answered = [
            start for start, _, source, _ in calls if back < start < end and source == "cloud"
        ]
        assert answered[0] - back < RECOVERY_S
    assert any("circuit breaker is open" in why for start, _, _, why in calls if start > killed)


# Modules that read the wall clock, and the reason why that is not a wait.
WALL_CLOCK = {
    "recorder.py": "times of recordings and names of files",
    "doctor.py": "the clock itself, and the dates of certificates",
    "security.py": "the dates of certificates",
}


def wall_clock_reads(path):
    """Yield names in a module, among them those that read the wall clock."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (alias.name for alias in node.names)


def test_nothing_waits_by_the_wall_clock():
    names = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime"}
    modules = (ROOT / "edge_runtime").rglob("*.py")
    assert {p.name for p in modules if names & set(wall_clock_reads(p))} == set(WALL_CLOCK)
