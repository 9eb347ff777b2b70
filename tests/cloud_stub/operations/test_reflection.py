"""Reflection: tools read the calls and messages from the server itself."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from cloud_stub.operations import health
from edge_runtime.wire import messages as pb

pytestmark = pytest.mark.once

SERVICES = {
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
}


@pytest.fixture(scope="module")
def channel():
    started, ending = threading.Event(), None
    ports = []

    async def serve():
        nonlocal ending
        ending = (asyncio.get_running_loop(), asyncio.Event())
        server = grpc.aio.server()
        health.add_reflection(server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        started.set()
        await ending[1].wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(30)
    with grpc.insecure_channel(f"127.0.0.1:{ports[0]}") as opened:
        yield opened
    ending[0].call_soon_threadsafe(ending[1].set)
    thread.join()


@pytest.fixture
def database(channel):
    return ProtoReflectionDescriptorDatabase(channel)


def test_the_services_are_listed(database):
    assert set(database.get_services()) == SERVICES


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_is_described(service, database):
    descriptor = DescriptorPool(database).FindServiceByName(service)
    assert descriptor.full_name == service
    assert descriptor.methods


def test_the_described_calls_are_the_served_ones(database):
    service = DescriptorPool(database).FindServiceByName(pb.SERVICE)
    assert {method.name for method in service.methods} == set(pb.METHODS)
    assert service.methods_by_name["ModelInfer"].input_type.full_name == (
        "inference.ModelInferRequest"
    )


def test_a_message_built_from_the_description_can_be_parsed(database):
    descriptor = DescriptorPool(database).FindMessageTypeByName("inference.ModelInferRequest")
    request = GetMessageClass(descriptor)(model_name="large", id="7")
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 2, 2, 3])
    request.parameters["gatekeeper_confidence"].double_param = 0.25
    read = pb.ModelInferRequest.FromString(request.SerializeToString())
    assert (read.model_name, read.id, list(read.inputs[0].shape)) == ("large", "7", [1, 2, 2, 3])
    assert read.parameters["gatekeeper_confidence"].double_param == 0.25


@pytest.mark.parametrize("service", [health.V1ALPHA, health.V1])
def test_both_names_of_the_service_answer(service, channel):
    ask = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.Nothing"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
    ]
    listed, unknown, described = ask(iter(requests), timeout=10)
    assert {item.name for item in listed.list_services_response.service} == SERVICES
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert len(described.file_descriptor_response.file_descriptor_proto) == 1
