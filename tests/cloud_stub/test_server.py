"""The serving process, met over the network as its clients and its operator meet it."""

from __future__ import annotations

import io
import signal
import socket
import threading
import time

import grpc
import numpy as np
import pytest

from edge_runtime.cloud.model import CloudModel
from edge_runtime.errors import CloudDeadlineError, CloudRejectedError, CloudUnavailableError
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

pytestmark = pytest.mark.slow

LABELS = ("bright", "dark", "middling")  # another order than the server's
DARK_CONFIDENCE = 0.785597  # e^3 / (e^3 + e^1.5 + 1)


def _image(*levels, side=4):
    return np.stack([np.full((side, side, 3), level, np.uint8) for level in levels])


def _request(datatype="UINT8", shape=(1, 4, 4, 3), raw=bytes(48), name="image", **fields):
    request = pb.ModelInferRequest(**({"model_name": "large", "id": "7"} | fields))
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def _call(channel, request, method="ModelInfer", kind=pb.ModelInferResponse):
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return kind.FromString(channel.unary_unary(pb.METHODS[method], None, None)(data, timeout=20))


def _labels(response):
    found = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    return found["label"].tolist()


def _picture(form, level=0, size=(4, 4)):
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", size, (level,) * 3).save(file, form)
    return file.getvalue()


def test_ready_line_is_the_only_one_and_names_what_is_served(server):
    assert server.ready_line == f"cloud_stub: serving large (3 labels) on {server.address}\n"
    assert server.address.startswith("127.0.0.1:")


def test_edge_client_gets_its_own_indices(server):
    with CloudModel.open(server.address, labels=LABELS) as cloud:
        assert cloud.check(deadline_s=10)
        answers = cloud.infer(_image(0, 255), confidences=[0.1, 0.2], threshold=0.5, deadline_s=10)
    assert answers.label == ["dark", "bright"]
    assert answers.prediction.tolist() == [1, 0]
    np.testing.assert_allclose(answers.confidence, [DARK_CONFIDENCE] * 2, rtol=1e-5)


def test_health_service_says_serving(channel):
    health = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub(channel)
    for service in ("", pb.SERVICE, "large"):
        answer = stub.Check(health.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health.HealthCheckResponse.SERVING


def test_typed_request_is_answered_in_typed_form(channel):
    request = _request(raw=None)
    request.inputs[0].contents.uint_contents.extend([255] * 48)
    response = _call(channel, request)
    assert not response.raw_output_contents
    assert _labels(response) == [b"bright"]


def test_requested_outputs_come_alone_and_in_order(channel):
    outputs = [{"name": "label"}, {"name": "prediction"}]
    response = _call(channel, _request(outputs=outputs))
    assert [output.name for output in response.outputs] == ["label", "prediction"]


def test_encoded_pictures_of_any_size_are_decoded(channel):
    pictures = [_picture("PNG", 0), _picture("JPEG", 255, (9, 5)), _picture("BMP", 0, (2, 2))]
    response = _call(channel, _request("BYTES", [3], tensors.encode_bytes(pictures)))
    assert _labels(response) == [b"dark", b"bright", b"dark"]


def test_unknown_parameters_are_ignored_and_counted(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0")
    request = _request()
    request.parameters["priority"].int64_param = 3
    request.parameters["gatekeeper_threshold"].string_param = "0.5"
    with grpc.insecure_channel(running.address) as channel:
        assert _labels(_call(channel, request)) == [b"dark"]
    assert running.stop() == 0
    assert "stopped after 1 answered calls ignored_parameters=1" in _errors(running)


def _errors(running):
    deadline = time.monotonic() + 5
    while "stopped" not in "".join(running.errors) and time.monotonic() < deadline:
        time.sleep(0.01)
    return "".join(running.errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_the_call_in_flight_finish(slow_bundle, launch, number):
    running = launch("--bundle", str(slow_bundle), "--port", "0")
    found = []
    with CloudModel.open(running.address, labels=LABELS) as cloud:
        assert cloud.check(deadline_s=10)
        asking = threading.Thread(
            target=lambda: found.append(cloud.infer(_image(255), deadline_s=30).label)
        )
        asking.start()
        time.sleep(0.3)  # a call takes about a second
        assert asking.is_alive()
        assert running.stop(number) == 0
        asking.join()
        assert found == [["bright"]]
        with pytest.raises(CloudUnavailableError):
            cloud.infer(_image(0), deadline_s=5)


def test_deadline_ends_the_wait_and_not_the_server(slow_bundle, launch):
    running = launch("--bundle", str(slow_bundle), "--port", "0")
    with CloudModel.open(running.address, labels=LABELS) as cloud:
        assert cloud.check(deadline_s=10)
        with pytest.raises(CloudDeadlineError):
            cloud.infer(_image(0), deadline_s=0.2)
        assert cloud.infer(_image(0), deadline_s=30).label == ["dark"]


def test_second_server_on_a_port_is_told_in_one_line(server, bundle, run_command):
    port = server.address.split(":")[1]
    done = run_command("--bundle", str(bundle), "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "port in use" in done.stderr


def test_port_is_free_again_after_a_stop(bundle, launch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for _ in range(2):
        running = launch("--bundle", str(bundle), "--port", port)
        with CloudModel.open(running.address, labels=LABELS) as cloud:
            assert cloud.infer(_image(0), deadline_s=10).label == ["dark"]
            assert running.stop() == 0


def test_model_name_of_the_command_line_is_the_one_served(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0", "--model", "huge", "--threads", "1")
    with CloudModel.open(running.address, "huge", labels=LABELS) as cloud:
        assert cloud.infer(_image(255), deadline_s=10).label == ["bright"]
    with (
        CloudModel.open(running.address, labels=LABELS) as cloud,
        pytest.raises(CloudRejectedError, match="NOT_FOUND"),
    ):
        cloud.infer(_image(0), deadline_s=10)


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        ([], 2, "expected a command"),
        (["--port", "1"], 2, "expected one of --checkpoint, --bundle"),
        (["--checkpoint", "a", "--bundle", "b"], 2, "expected one of"),
        (["--bundle", "b", "--port", "70000"], 2, "expected --port from 0 to 65535"),
        (["--bundle", "b", "--grace", "-1"], 2, "expected --grace"),
        (["--bundle", "b", "--prot", "1"], 2, "unknown flag --prot"),
        (["--bundle", "does-not-exist", "--port", "0"], 1, "expected a bundle"),
        (["--bundle", "b", "--host", "192.0.2.1", "--port", "0"], 1, "cannot listen on 192.0.2.1"),
    ],
)
def test_mistake_on_the_command_line_is_one_line(run_command, words, status, why):
    done = run_command(*words)
    assert done.returncode == status
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
