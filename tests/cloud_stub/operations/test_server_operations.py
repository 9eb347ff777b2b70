"""Log, metrics, health and reflection of a serving process, as its operator sees them."""

from __future__ import annotations

import signal
import socket
import threading

import grpc
import numpy as np
import onnx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from onnx import TensorProto, helper
from tools.waiting import wait_for

from edge_runtime import contract
from edge_runtime.cloud.model import CloudModel
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

pytestmark = [pytest.mark.slow, pytest.mark.once]

LABELS = ("dark", "middling", "bright")
LARGE = ("model", "large")
PAYLOAD = "a-payload-that-nobody-may-read"


@pytest.fixture
def serve(bundle, launch):
    def start(*words):
        return launch("--bundle", str(bundle), "--port", "0", "--log", "json", *words)

    return start


def request(rows=1, name="image", **fields):
    message = pb.ModelInferRequest(**({"model_name": "large", "id": "7"} | fields))
    message.inputs.add(name=name, datatype="UINT8", shape=[rows, 4, 4, 3])
    message.raw_input_contents.append(bytes(rows * 48))
    return message


def call(channel, message):
    """Return the status code of a call."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    try:
        channel.unary_unary(pb.METHODS["ModelInfer"], None, None)(data, timeout=20)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def test_the_metrics_match_the_calls(serve, scrape):
    running = serve("--metrics-port", "0", "--max-batch", "4")
    forwarded = request(rows=4)
    forwarded.parameters[contract.PARAMETER_CONFIDENCE].string_param = "0.42,0.12"
    forwarded.parameters[contract.PARAMETER_THRESHOLD].string_param = "0.5"
    forwarded.parameters[contract.PARAMETER_CONTRACT].string_param = "1"
    with grpc.insecure_channel(running.address) as channel:
        for message in (request(1), request(3), forwarded):
            assert call(channel, message) == "OK"
        for _ in range(2):
            assert call(channel, request(name="picture")) == "INVALID_ARGUMENT"
        assert call(channel, request(model_name="small")) == "NOT_FOUND"
        assert call(channel, b"\xff") == "INVALID_ARGUMENT"
        metrics = scrape(running)
    assert metrics["calls_total", LARGE, ("outcome", "answered")] == 3
    assert metrics["calls_total", LARGE, ("outcome", "invalid")] == 2
    assert metrics["calls_total", LARGE, ("outcome", "shed")] == 0
    assert metrics["stray_calls_total",] == 2
    assert metrics["rows_total", LARGE] == 8
    assert metrics["call_duration_seconds_count", LARGE] == 3
    assert metrics["queue_wait_seconds_count", LARGE] == 3
    # One after the other, so each call was a batch of its own.
    assert metrics["compute_seconds_count", LARGE] == 3
    assert metrics["batch_rows_bucket", ("le", "1.0"), LARGE] == 1
    assert metrics["batch_rows_bucket", ("le", "2.0"), LARGE] == 1
    assert metrics["batch_rows_bucket", ("le", "4.0"), LARGE] == 3
    assert metrics["batch_rows_sum", LARGE] == 8
    assert metrics["waiting_calls", LARGE] == metrics["in_flight_calls", LARGE] == 0
    assert metrics["ready", LARGE] == 1
    assert metrics["held_bytes",] == metrics["dropped_log_lines_total",] == 0
    assert not [key for key in metrics if key[0].startswith(("unauthenticated", "certificate"))]
    version = ("contract_version", "1")
    for bound, count in (("0.1", 0), ("0.15", 1), ("0.4", 1), ("0.45", 2), ("+Inf", 2)):
        assert metrics["received_confidence_bucket", version, ("le", bound), LARGE] == count
    assert metrics["received_threshold_bucket", version, ("le", "0.45"), LARGE] == 0
    assert metrics["received_threshold_bucket", version, ("le", "0.5"), LARGE] == 1


def test_a_metrics_port_in_use_is_reported_on_one_line(bundle, run_command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_command("--bundle", str(bundle), "--port", "0", "--metrics-port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port} for metrics" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_log_describes_calls_as_json_without_their_content(serve, await_event, events):
    running = serve("--log-level", "debug")
    forged = f"{PAYLOAD[:4]}\n{{}}"
    with grpc.insecure_channel(running.address) as channel:
        assert call(channel, request(2, id="answered-1")) == "OK"
        assert call(channel, request(name=PAYLOAD, id=forged)) == "INVALID_ARGUMENT"
        assert call(channel, request(model_name="small", id="stray-1")) == "NOT_FOUND"
        message = request(id="odd-1")
        message.parameters["secret"].string_param = PAYLOAD
        message.raw_input_contents[0] = PAYLOAD.encode()
        assert call(channel, message) == "INVALID_ARGUMENT"
    assert running.stop() == 0
    await_event(running, "stopped")
    calls = {line["request_id"]: line for line in events(running) if line["event"] == "call"}
    assert calls.keys() == {"answered-1", forged, "stray-1", "odd-1"}
    answered = calls["answered-1"]
    assert (answered["level"], answered["outcome"], answered["code"]) == ("DEBUG", "answered", "OK")
    assert (answered["model"], answered["rows"]) == ("large", 2)
    assert answered["peer"].startswith("ipv4:127.0.0.1:")
    assert answered["total_ms"] >= answered["compute_ms"] > 0
    assert calls["stray-1"]["code"] == "NOT_FOUND"
    assert calls[forged]["level"] == "WARNING"
    log = "".join(running.errors)
    assert PAYLOAD not in log
    assert not any(label in log for label in LABELS)


@pytest.fixture
def numbers(tmp_path):
    """A graph that parses numbers; its message for any other text repeats that text."""
    texts = helper.make_tensor_value_info("digits", TensorProto.STRING, ["n"])
    floats = helper.make_tensor_value_info("number", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Cast", ["digits"], ["number"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "numbers", [texts], [floats])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "n.onnx")
    return tmp_path / "n.onnx"


def test_a_failing_model_is_logged_without_its_input(numbers, launch, await_event, events):
    running = launch("--onnx", str(numbers), "--port", "0", "--log", "json")
    message = pb.ModelInferRequest(model_name="large")
    message.inputs.add(name="digits", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(tensors.encode_bytes([PAYLOAD.encode()]))
    with grpc.insecure_channel(running.address) as channel:
        assert call(channel, message) == "INTERNAL"
    failure = await_event(running, "model failed")
    assert failure["level"] == "ERROR"
    assert "onnxruntime" in failure["error"]
    assert await_event(running, "call")["outcome"] == "failed"
    assert running.stop() == 0
    await_event(running, "stopped")
    stopped = "stopped after 0 answered calls"
    assert {line["event"] for line in events(running)} == {"model failed", "call", stopped}
    assert PAYLOAD not in "".join(running.errors)


def test_by_default_answered_calls_are_not_logged_and_no_metrics_are_served(
    serve, await_event, events
):
    running = serve()
    with grpc.insecure_channel(running.address) as channel:
        assert call(channel, request()) == "OK"
    assert running.stop() == 0
    await_event(running, "stopped")
    assert [line["event"] for line in events(running)] == ["stopped after 1 answered calls"]


def test_a_flood_of_bad_calls_leaves_few_lines(serve, await_event):
    running = serve()
    with grpc.insecure_channel(running.address) as channel:
        send = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        bad = request(name="picture").SerializeToString()
        for waiting in [send.future(bad, timeout=60) for _ in range(1000)]:
            assert waiting.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert running.stop() == 0
    await_event(running, "stopped")
    assert 20 <= len(running.errors) < 100


def test_the_server_describes_its_calls_by_reflection(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(
        database.get_services()
    )
    service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
    assert {"ModelInfer", "ServerReady"} <= {method.name for method in service.methods}


def test_health_is_not_serving_while_calls_in_flight_are_finished(slow_bundle, launch, scrape):
    running = launch(
        "--bundle", str(slow_bundle), "--port", "0", "--metrics-port", "0", "--log", "json"
    )
    statuses = {service: [] for service in ("", pb.SERVICE, "large")}
    answers = []
    with grpc.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def watch(service, has_news):
            for answer in health.Watch(health_pb2.HealthCheckRequest(service=service)):
                statuses[service].append(answer.status)
                has_news.set()

        news = {service: threading.Event() for service in statuses}
        watching = [threading.Thread(target=watch, args=one) for one in news.items()]
        for thread in watching:
            thread.start()
        assert all(event.wait(20) for event in news.values())
        with CloudModel.open(running.address, labels=LABELS, deadline_s=30) as cloud:
            image = np.zeros((1, 4, 4, 3), np.uint8)
            calling = threading.Thread(target=lambda: answers.extend(cloud.infer(image).label))
            calling.start()
            assert wait_for(lambda: scrape(running)["in_flight_calls", LARGE])
            running.process.send_signal(signal.SIGTERM)
            calling.join(30)
        for thread in watching:
            thread.join(30)
    assert statuses == {service: [1, 2] for service in statuses}
    assert answers == ["dark"]
    assert running.process.wait(30) == 0


def test_a_model_with_hanging_workers_is_not_serving_until_they_come_back(slow_bundle, launch):
    # A call takes far longer than this limit: all calls are given up, each with its worker.
    running = launch(
        "--bundle", str(slow_bundle), "--port", "0", "--stall-s", "0.05", "--max-batch", "1"
    )
    with grpc.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def reports(status):
            requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", "large")]
            return all(health.Check(one, timeout=10).status == status for one in requests)

        assert reports(1)
        send = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        waiting = [send.future(request().SerializeToString(), timeout=60) for _ in range(6)]
        assert wait_for(lambda: reports(2))
        assert {one.code().name for one in waiting} <= {"INTERNAL", "UNAVAILABLE"}
        assert wait_for(lambda: reports(1))
