"""The serving process over the network, as its clients and its operator use it."""

from __future__ import annotations

import functools
import http.server
import io
import signal
import socket
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tools.processes import needs_proc
from tools.waiting import wait_for

from edge_runtime.cloud.model import CloudModel
from edge_runtime.errors import (
    CloudDeadlineError,
    CloudRejectedError,
    CloudUnavailableError,
    GatekeeperError,
)
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

pytestmark = [pytest.mark.slow, pytest.mark.once]

LABELS = ("bright", "dark", "middling")  # in another order than the server's
DARK_CONFIDENCE = 0.785597  # e^3 / (e^3 + e^1.5 + 1)
PINGS_S = 16.0
"""Time of three pings: by default gRPC closes a connection at the third one."""


def image(*levels, side=4):
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def request_of(datatype="UINT8", shape=(1, 4, 4, 3), raw=bytes(48), name="image", **fields):
    request = pb.ModelInferRequest(**({"model_name": "large", "id": "7"} | fields))
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def call(channel, request):
    send = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
    return pb.ModelInferResponse.FromString(send(request.SerializeToString(), timeout=20))


@needs_proc
def test_memory_returns_after_large_calls(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0", "--max-message-mib", "32")
    with grpc.insecure_channel(running.address) as channel:
        small = request_of()
        call(channel, small)
        before = running.resident_bytes()
        for shape in ((1, 3000, 3000, 3), (100, 300, 300, 3), (40_000, 8, 8, 3)):
            call(channel, request_of(shape=shape, raw=bytes(int(np.prod(shape)))))
        file = picture("PNG", size=(5000, 5000))
        encoded = tensors.encode_bytes([file])
        call(channel, request_of("BYTES", (1,), encoded))
        assert running.peak_bytes() - before > 100 << 20
        assert wait_for(lambda: running.resident_bytes() - before < 50 << 20)
        call(channel, small)


def labels(response):
    outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    return outputs["label"].tolist()


def picture(form, level=0, size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(file, form)
    return file.getvalue()


def opened(address, model="large"):
    return CloudModel.open(address, model, labels=LABELS)


def errors(running):
    """Return the log of a server that has stopped; its reader is a thread of its own."""
    wait_for(lambda: "stopped" in "".join(running.errors), within_s=5)
    return "".join(running.errors)


def test_the_ready_line_is_the_only_one_and_names_the_models(server):
    assert server.ready_line == f"cloud_stub: serving large (3 labels) on {server.address}\n"
    assert server.address.startswith("127.0.0.1:")


def test_the_edge_gets_the_indices_of_its_own_labels(server):
    with opened(server.address) as cloud:
        assert cloud.check(deadline_s=10)
        answers = cloud.infer(image(0, 255), confidences=[0.1, 0.2], threshold=0.5, deadline_s=10)
    assert answers.label == ["dark", "bright"]
    assert answers.prediction.tolist() == [1, 0]
    np.testing.assert_allclose(answers.confidence, [DARK_CONFIDENCE] * 2, rtol=1e-5)


def test_the_health_service_reports_serving(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", pb.SERVICE, "large"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_typed_request_gets_a_typed_answer(channel):
    request = request_of(raw=None)
    request.inputs[0].contents.uint_contents.extend([255] * 48)
    response = call(channel, request)
    assert not response.raw_output_contents
    assert labels(response) == [b"bright"]


def test_only_requested_outputs_are_sent_in_the_order_of_the_request(channel):
    outputs = [{"name": "label"}, {"name": "prediction"}]
    response = call(channel, request_of(outputs=outputs))
    assert [output.name for output in response.outputs] == ["label", "prediction"]


def test_picture_files_of_any_size_are_decoded(channel):
    pictures = [picture("PNG", 0), picture("JPEG", 255, (9, 5)), picture("BMP", 0, (2, 2))]
    response = call(channel, request_of("BYTES", [3], tensors.encode_bytes(pictures)))
    assert labels(response) == [b"dark", b"bright", b"dark"]


def test_unknown_parameters_are_ignored_and_counted(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0")
    request = request_of()
    request.parameters["priority"].int64_param = 3
    request.parameters["gatekeeper_threshold"].string_param = "0.5"
    with grpc.insecure_channel(running.address) as channel:
        assert labels(call(channel, request)) == [b"dark"]
    assert running.stop() == 0
    assert "stopped after 1 answered calls ignored_parameters=1" in errors(running)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_call_in_flight_finish(slow_bundle, launch, number):
    running = launch("--bundle", str(slow_bundle), "--port", "0")
    answers = []
    with opened(running.address) as cloud:
        assert cloud.check(deadline_s=10)
        calling = threading.Thread(
            target=lambda: answers.append(cloud.infer(image(255), deadline_s=30).label)
        )
        calling.start()
        time.sleep(0.2)  # a call takes longer
        assert calling.is_alive()
        assert running.stop(number) == 0
        calling.join()
        assert answers == [["bright"]]
        with pytest.raises(CloudUnavailableError):
            cloud.infer(image(0), deadline_s=5)


def test_a_deadline_ends_the_wait_but_not_the_server(slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0")
    with opened(running.address) as cloud:
        assert cloud.check(deadline_s=10)
        with pytest.raises(CloudDeadlineError):
            cloud.infer(image(0), deadline_s=0.2)
        assert cloud.infer(image(0), deadline_s=30).label == ["dark"]


def test_a_call_longer_than_the_grace_is_abandoned(slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0", "--grace-s", "0.1")
    failures = []

    def fail():
        with pytest.raises(GatekeeperError) as caught:
            cloud.infer(image(0), deadline_s=30)
        failures.append(caught.value)

    with opened(running.address) as cloud:
        assert cloud.check(deadline_s=10)
        calling = threading.Thread(target=fail)
        calling.start()
        time.sleep(0.2)  # a call takes longer
        assert running.stop() == 0
        calling.join(20)
    assert len(failures) == 1


def test_a_killed_server_is_unavailable_at_once(slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0")
    threading.Timer(0.2, running.process.kill).start()
    with opened(running.address) as cloud, pytest.raises(CloudUnavailableError):
        cloud.infer(image(0), deadline_s=30)
    assert running.process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["--port", "{taken}"], 1, ["cannot listen on 127.0.0.1:{taken}", "port in use"]),
        (["--bundle", "does-not-exist", "--port", "0"], 1, ["expected a bundle"]),
        (["--host", "192.0.2.1", "--port", "0"], 1, ["cannot listen on 192.0.2.1"]),
        (["--port", "70000"], 2, ["expected --port in [0, 65535], got 70000"]),
    ],
)
def test_a_server_that_cannot_start_prints_one_line(
    server, bundle, run_command, words, status, why
):
    taken = server.address.split(":")[1]
    words = [word.format(taken=taken) for word in words]
    done = run_command(*([] if "--bundle" in words else ["--bundle", str(bundle)]), *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert [text for text in why if text.format(taken=taken) not in done.stderr] == []


def test_a_port_is_free_again_after_a_stop(bundle, launch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for _ in range(2):
        running = launch("--bundle", str(bundle), "--port", port)
        with opened(running.address) as cloud:
            assert cloud.infer(image(0), deadline_s=10).label == ["dark"]
            assert running.stop() == 0


def test_the_model_is_served_under_the_name_of_the_command_line(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0", "--model", "huge", "--threads", "1")
    with opened(running.address, "huge") as cloud:
        assert cloud.infer(image(255), deadline_s=10).label == ["bright"]
    with opened(running.address) as cloud, pytest.raises(CloudRejectedError, match="NOT_FOUND"):
        cloud.infer(image(0), deadline_s=10)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_the_ipv6_loopback_is_served_without_a_warning(bundle, launch):
    running = launch("--bundle", str(bundle), "--host", "::1", "--port", "0")
    assert running.address.startswith("[::1]:")
    with opened(running.address) as cloud:
        assert cloud.infer(image(0), deadline_s=10).label == ["dark"]
    assert running.stop() == 0
    assert "WARNING" not in errors(running)


def test_listening_beyond_loopback_logs_a_warning(bundle, launch):
    running = launch("--bundle", str(bundle), "--host", "0.0.0.0", "--port", "0")  # noqa: S104
    assert running.stop() == 0
    assert "reachable from other machines, in plaintext" in errors(running)


def test_a_web_server_at_the_address_is_refused_on_one_line():
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/nowhere")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{web.server_address[1]}"
        with opened(address) as cloud, pytest.raises(GatekeeperError) as caught:
            cloud.infer(image(0), deadline_s=5)
        web.shutdown()
    assert "\n" not in str(caught.value)


# The time of the following tests passes during those before them.


def test_pings_every_five_seconds_do_not_end_a_connection(quiet_clients):
    time.sleep(max(0.0, PINGS_S - quiet_clients.age_s))
    # Later on, pings that arrive a little too early may add up.
    states = {state for age_s, state in quiet_clients.states if age_s < PINGS_S}
    assert states == {grpc.ChannelConnectivity.READY}


def test_a_silent_connection_is_closed(quiet_clients):
    """After 20 s; gRPC's own limit is two minutes."""
    assert wait_for(lambda: quiet_clients.closed_s, within_s=60)
    assert quiet_clients.closed_s < 60
