"""Many connections, silent and slow ones, two servers on a port, and an end under load."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from tools.callers import PATIENCE_S, Caller, answer_of, callers, order, wait_until
from tools.faulty_graphs import ANSWER
from tools.processes import needs_proc

from edge_runtime.wire import messages as pb

pytestmark = [pytest.mark.slow, pytest.mark.once]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# A header's frame of 100 bytes in stream 1, of which two are ever sent.
HEADERS = (100).to_bytes(3, "big") + bytes([1, 4]) + (1).to_bytes(4, "big") + b"\x83\x86"
BEGINNINGS = [b"", PREFACE[:10], PREFACE + SETTINGS, PREFACE + SETTINGS + HEADERS]
"""Nothing, half a preface, no request, half a request."""
OPEN = 2000


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), PATIENCE_S)


@contextlib.contextmanager
def dripping(connections, data):
    """Send data over each connection, one byte at a time, until the block ends."""
    has_ended = threading.Event()

    def drip():
        for at in range(10**9):
            for connection in connections:
                with contextlib.suppress(OSError):  # the server may have closed it
                    connection.send(data[at % len(data) :][:1])
            if has_ended.wait(0.05):
                return

    dripper = threading.Thread(target=drip)
    dripper.start()
    try:
        yield
    finally:
        has_ended.set()
        dripper.join()


def test_silent_and_slow_connections_delay_no_call_and_no_stop(launch_moody):
    running = launch_moody("--grace-s", "2")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(running.address)) for _ in range(400)]
        for n, connection in enumerate(held):
            connection.sendall(BEGINNINGS[n % 4])
        # Half of each kind.
        slow = [connection for n, connection in enumerate(held) if n % 8 < 4]
        with dripping(slow, PREFACE + SETTINGS * 100), Caller(running.address) as caller:
            for n in range(20):
                assert caller.numbers((ANSWER, n), timeout=20) == [n]
        assert running.stop(within_s=2 + PATIENCE_S) == 0


def test_garbage_after_a_good_beginning_ends_only_its_own_connection(launch_moody):
    draw = np.random.default_rng(0)
    running = launch_moody()
    with Caller(running.address) as caller:
        for _ in range(50):
            with connect(running.address) as connection, contextlib.suppress(OSError):
                connection.sendall(PREFACE + SETTINGS + draw.bytes(2000))
                connection.settimeout(0.1)
                while connection.recv(1 << 16):
                    pass
        assert caller.numbers((ANSWER, 7)) == [7]
    assert running.stop() == 0


def test_a_flood_of_one_connection_cancels_no_call(launch_moody):
    running = launch_moody("--max-queue", "200")
    with callers(running.address, 2) as (flooding, quiet):
        flooding.is_server_ready()
        flood = [flooding.order((ANSWER, n)) for n in range(3000)]
        for n in range(20):
            assert quiet.numbers((ANSWER, n)) == [n]
        ends = Counter(call.code() for call in flood)
        assert ends == {grpc.StatusCode.OK: 3000}
    assert running.stop() == 0


def test_many_connections_with_many_calls_each_cancel_no_call(launch_moody):
    running = launch_moody("--max-queue", "4000")
    with callers(running.address, 20) as several:
        flood = [caller.order((ANSWER, n)) for n in range(120) for caller in several]
        assert Counter(call.code() for call in flood) == {grpc.StatusCode.OK: 2400}
    assert running.stop() == 0


def http2_frame(kind, flags, stream, payload):
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def header(key, value, *, is_kept=False):
    """Return a header field in plain letters, which the server may be asked to keep."""
    length = len(value)
    size = bytes([length]) if length < 127 else bytes([127, length - 127 & 127 | 128, 31])
    return bytes([0x40 if is_kept else 0, len(key)]) + key + size + value


def request_headers(*more):
    path = b"/inference.GRPCInferenceService/ServerLive"
    fields = [(b":path", path), (b":authority", b"x"), (b"content-type", b"application/grpc")]
    return b"\x83\x86" + b"".join([*(header(*field) for field in fields), *more])


@pytest.mark.parametrize("attack", ["timeouts", "references"])
def test_malformed_and_enormous_headers_write_no_lines_of_another_form(launch_moody, attack):
    large = header(b"k", bytes(97 for _ in range(127 + 31 * 128)), is_kept=True)
    more = {
        "timeouts": [header(b"grpc-timeout", b"9999999999X")],
        "references": [b"\xbe" * 8000],  # the entry that the first request had kept
    }[attack]
    running = launch_moody("--log", "json")
    with Caller(running.address) as caller:
        with connect(running.address) as connection, contextlib.suppress(OSError):
            connection.sendall(PREFACE + SETTINGS)
            connection.sendall(http2_frame(1, 5, 1, request_headers(large)))
            for n in range(1, 30):
                stream = 2 * n + 1
                connection.sendall(http2_frame(1, 5, stream, request_headers(*more)))
        assert caller.numbers((ANSWER, 7)) == [7]
    assert running.stop() == 0
    assert all(line.startswith("{") for line in running.errors), running.errors


@pytest.fixture
def allow_files():
    """Return a function that sets the open files allowed to this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * OPEN:
        pytest.skip(f"needs {2 * OPEN} open files, this system allows {hard}")
    yield lambda count: resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def shake_hands(connections):
    """Shake hands on all connections; return the number that the server answered."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.sendall(PREFACE + SETTINGS)
            selector.register(connection, selectors.EVENT_READ)
        until = time.monotonic() + PATIENCE_S
        waiting = len(connections)
        while waiting and time.monotonic() < until:
            for key, _ in selector.select(1):
                if key.fileobj.recv(1 << 16):
                    waiting -= 1
                selector.unregister(key.fileobj)
    return len(connections) - waiting


@needs_proc
def test_two_thousand_connections_are_open_at_once(launch_moody, allow_files, record_property):
    allow_files(1024)  # the usual limit; the server raises its own
    running = launch_moody("--grace-s", "2")
    allow_files(2 * OPEN)
    with contextlib.ExitStack() as stack:
        before = running.resident_bytes()
        held = [stack.enter_context(connect(running.address)) for _ in range(OPEN)]
        assert shake_hands(held) == OPEN
        several = stack.enter_context(callers(running.address, 20))
        calls = [caller.order((ANSWER, n)) for n, caller in enumerate(several)]
        assert [answer_of(call.result()) for call in calls] == [[n] for n in range(20)]
        each = (running.resident_bytes() - before) / OPEN
        record_property("bytes_per_connection", round(each))
        print(f"{each / 1024:.0f} KiB per connection")
        assert each < 1 << 20
        assert running.stop(within_s=2 + PATIENCE_S) == 0


def is_served(connection):
    """Return whether the server answers the beginning of a connection instead of closing it."""
    try:
        connection.sendall(PREFACE + SETTINGS)
        return bool(connection.recv(1))
    except OSError:
        return False


def test_connections_beyond_the_limit_are_closed_and_leave_room_when_they_end(launch_moody):
    running = launch_moody("--max-connections", "10")
    with contextlib.ExitStack() as stack:
        caller = stack.enter_context(Caller(running.address))
        assert caller.numbers((ANSWER, 7)) == [7]
        held = [stack.enter_context(connect(running.address)) for _ in range(12)]
        assert [is_served(one) for one in held] == [True] * 9 + [False] * 3
        assert caller.numbers((ANSWER, 8)) == [8]
        held[0].close()

        def takes_one_more():
            return is_served(stack.enter_context(connect(running.address)))

        wait_until(takes_one_more)
    assert running.stop() == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_of_two_servers_started_at_the_same_moment_one_serves_and_one_prints_a_line(moody):
    for _ in range(2):
        words = [
            "--onnx",
            str(moody.path),
            "--allow-loops",
            "--threads",
            "1",
            "--port",
            free_port(),
        ]
        command = [sys.executable, "-m", "cloud_stub", *words]
        both = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        try:
            until = time.monotonic() + PATIENCE_S
            while all(one.poll() is None for one in both):
                assert time.monotonic() < until
                time.sleep(0.01)
            loser, winner = sorted(both, key=lambda one: one.poll() is None)
            out, errors = loser.communicate(timeout=PATIENCE_S)
            assert (loser.returncode, out) == (1, "")
            assert errors.count("\n") == 1, errors
            assert "cannot listen on 127.0.0.1:" in errors
            address = winner.stdout.readline().split()[-1]
            with Caller(address) as caller:
                for n in range(20):
                    assert caller.numbers((ANSWER, n)) == [n]
            winner.terminate()
            assert winner.wait(PATIENCE_S) == 0
        finally:
            for one in both:
                one.kill()
                one.communicate()


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
AT_ONCE = 100


def call_until_refused(address, work, ends):
    """Call without a pause until the server is gone; keep the end of each call."""
    with Caller(address, ("grpc.enable_retries", 0)) as caller:
        while all(code != UNAVAILABLE for code, _ in ends[-AT_ONCE:]):
            calls = [caller.order(work, (ANSWER, n)) for n in range(AT_ONCE)]
            for n, call in enumerate(calls):
                error = call.exception(PATIENCE_S)
                if error is None:
                    assert answer_of(call.result())[1] == n
                ends.append((call.code(), call.details()))


def test_an_end_under_load_answers_accepted_calls_and_refuses_the_rest(launch_moody, moody):
    running = launch_moody("--max-queue", "1000", "--max-batch", "256", "--grace-s", "30")
    ends = [[] for _ in range(8)]
    threads = [
        threading.Thread(target=call_until_refused, args=(running.address, moody.work(0.02), each))
        for each in ends
    ]
    for thread in threads:
        thread.start()
    with Caller(running.address) as caller:
        while caller.statistics().inference_stats.success.count < 1000:
            time.sleep(0.01)
    assert running.stop(within_s=30 + PATIENCE_S) == 0
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    counts = Counter(end for each in ends for end in each)
    assert {code for code, _ in counts} == {grpc.StatusCode.OK, UNAVAILABLE}, counts
    # The server reports as many answers as arrived: none was lost on the way.
    answered = sum(count for (code, _), count in counts.items() if code == grpc.StatusCode.OK)
    wait_until(lambda: "stopped after" in "".join(running.errors))
    assert f"stopped after {answered} answered calls" in "".join(running.errors)


def test_a_stream_under_way_when_the_server_ends_is_answered(launch_moody, moody):
    running = launch_moody("--grace-s", "30")
    requests = [order(moody.work(0.1), (ANSWER, n)) for n in range(5)]
    with Caller(running.address) as caller:
        stream = caller.channel.stream_stream(pb.METHODS["ModelStreamInfer"], None, None)
        answers = stream(iter(requests), timeout=PATIENCE_S)
        replies = [next(answers)]
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        replies += list(answers)
        stopping.join()
    messages = [pb.ModelStreamInferResponse.FromString(data) for data in replies]
    assert [message.error_message for message in messages] == [""] * 5
    assert running.process.returncode == 0
