"""Repeated signals, closed streams and a lack of memory lose no call."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
from tools.callers import wait_until
from tools.speller import Speller, answers_of, serving, spell

from cloud_stub.protocol import inference
from edge_runtime import CloudModel

LABELS = ("dark", "middling", "bright")

pytestmark = [pytest.mark.slow, pytest.mark.once]


def image(*levels):
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


def is_working(server):
    """Return whether a call is with the model, as /metrics says."""
    (line,) = [line for line in server.errors if "metrics are served" in line]
    address = re.search(r"address=(\S+)", line)[1]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        return re.search(r"in_flight_calls\{.*\} 1\.0", page.read().decode()) is not None


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)])
def test_further_signals_lose_no_call_in_flight(numbers, slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0", "--metrics-port", "0")
    answers = []
    with CloudModel.open(running.address, "large", labels=LABELS) as cloud:
        assert cloud.check(deadline_s=10)
        calling = threading.Thread(
            target=lambda: answers.append(cloud.infer(image(255), deadline_s=30).label)
        )
        calling.start()
        wait_until(lambda: is_working(running))
        while running.process.poll() is None:
            for number in numbers:
                running.process.send_signal(number)
                time.sleep(0.001)
        status = running.process.wait(30)
        calling.join()
    assert answers == [["bright"]]
    assert status == 0
    wait_until(lambda: any("already draining" in line for line in running.errors))
    assert sum("already draining" in line for line in running.errors) == 1
    assert not any("Traceback" in line for line in running.errors)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_server_with_closed_streams_ends_in_order(closed, bundle, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "cloud_stub", "--bundle", str(bundle), "--port", str(port)]
    # By the shell: between fork and exec, Python code may wait for ever for a thread of gRPC.
    closing = " ".join(f"{number}>&-" for number in closed)
    with subprocess.Popen(["sh", "-c", f'exec "$@" {closing}', "sh", *line]) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(60)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def ask_for_too_much(*_, **__):
    return np.empty(1 << 60, np.uint8)  # more than any process can address


class Starved(Speller):
    infer = ask_for_too_much


@pytest.mark.parametrize("place", ["model", "answer", "request"])
def test_a_call_without_memory_may_be_repeated(place, monkeypatch):
    speller = Starved() if place == "model" else Speller()
    if place == "answer":
        monkeypatch.setattr(inference, "infer_response", ask_for_too_much)
    elif place == "request":
        monkeypatch.setattr(inference, "parse_request", ask_for_too_much)

    async def scenario(served):
        call = served.infer(spell("to be"))
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        ((_, message),) = await answers_of(served.stream(spell("to be")))
        assert message.startswith("no memory is left for this call")

    serving(scenario, speller)
