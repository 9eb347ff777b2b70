"""The serving process in an operator's hands: addresses, signals, and checkpoints that are none."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from edge_runtime.cloud.model import CloudModel
from edge_runtime.errors import CloudUnavailableError, GatekeeperError

pytestmark = pytest.mark.slow

DARK = np.zeros((1, 4, 4, 3), np.uint8)
LABELS = ("dark", "middling", "bright")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_loopback_is_served_without_a_warning(bundle, launch):
    running = launch("--bundle", str(bundle), "--host", "::1", "--port", "0")
    assert running.address.startswith("[::1]:")
    with CloudModel.open(running.address, labels=LABELS) as cloud:
        assert cloud.infer(DARK, deadline_s=10).label == ["dark"]
    assert running.stop() == 0
    assert "WARNING" not in "".join(running.errors)


def test_listening_beyond_loopback_is_warned_of(bundle, launch):
    running = launch("--bundle", str(bundle), "--host", "0.0.0.0", "--port", "0")  # noqa: S104
    assert running.stop() == 0
    time.sleep(0.2)  # the reader of stderr is a thread of its own
    assert "reachable from other machines, in plaintext" in "".join(running.errors)


def test_a_call_longer_than_the_grace_is_given_up(slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0", "--grace", "0.1")
    failed = []

    def ask():
        with pytest.raises(GatekeeperError) as caught:
            cloud.infer(DARK, deadline_s=30)
        failed.append(caught.value)

    with CloudModel.open(running.address, labels=LABELS) as cloud:
        assert cloud.check(deadline_s=10)
        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)  # a call takes about a second
        assert running.stop() == 0
        asking.join(20)
    assert len(failed) == 1


def test_pings_of_a_patient_client_do_not_end_its_connection(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0")
    options = [
        ("grpc.keepalive_time_ms", 5_100),  # gRPC allows no shorter pause; the server admits 5 s
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    states = []
    with grpc.insecure_channel(running.address, options) as channel:
        channel.subscribe(states.append, try_to_connect=True)
        grpc.channel_ready_future(channel).result(10)
        states.clear()
        time.sleep(16)  # three pings
        assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states
        assert grpc.ChannelConnectivity.IDLE not in states


def test_a_killed_server_is_unavailable_and_not_a_hang(slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0")
    threading.Timer(0.3, running.process.kill).start()
    with (
        CloudModel.open(running.address, labels=LABELS) as cloud,
        pytest.raises(CloudUnavailableError),
    ):
        cloud.infer(DARK, deadline_s=30)
    assert running.process.wait(10) == -signal.SIGKILL


def test_a_web_server_at_the_address_is_refused_in_words():
    import functools
    import http.server

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/nowhere")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{web.server_address[1]}"
        with CloudModel.open(address, labels=LABELS) as cloud, pytest.raises(GatekeeperError) as e:
            cloud.infer(DARK, deadline_s=5)
        web.shutdown()
    assert "\n" not in str(e.value)


def pickled(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "nothing is at"),
        (pickled, "pickled weights can run code"),
        (truncated, "does not open"),
        (lambda path: (path / "config.json").write_text("{}"), "config.json"),
    ],
)
def test_a_checkpoint_that_is_none_ends_in_one_line(
    damage, why, small_checkpoint, tmp_path, run_command
):
    path = shutil.copytree(small_checkpoint, tmp_path / "copy")
    damage(path)
    done = run_command("--checkpoint", str(path), "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
