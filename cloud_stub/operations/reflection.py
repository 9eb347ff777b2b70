"""Server reflection, by which tools such as grpcurl learn the calls and messages."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format

from cloud_stub.operations import health
from edge_runtime.errors import DependencyError
from edge_runtime.wire import messages as pb

try:
    from grpc_reflection.v1alpha import reflection, reflection_pb2
except ImportError:
    raise DependencyError("grpcio-reflection", "serving", "cloud") from None

V1ALPHA: Final = str(reflection.SERVICE_NAME)
V1: Final = V1ALPHA.replace("v1alpha", "v1")
SERVICES: Final = (pb.SERVICE, health.SERVICE, V1ALPHA, V1)


def add_to(server: grpc.aio.Server) -> None:
    """Answer a server's reflection calls under both names that tools ask for.

    grpcio-reflection offers v1alpha alone; v1 differs from it in the name, and newer tools ask for
    it first.
    """
    asynchronous = reflection.aio  # type: ignore[attr-defined]
    servicer = asynchronous.ReflectionServicer(SERVICES, pool=_pool())
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
            for name in (V1ALPHA, V1)
        )
    )


def _pool() -> descriptor_pool.DescriptorPool:
    """Return a pool of our files alone.

    The process-wide one lacks the protocol's messages, or holds somebody else's of the same names.
    """
    pool = descriptor_pool.DescriptorPool()
    for file in (
        pb.ModelInferRequest.DESCRIPTOR.file,
        health.DESCRIPTOR,
        reflection_pb2.DESCRIPTOR,
    ):
        pool.AddSerializedFile(file.serialized_pb)
    pool.Add(_as_v1(reflection_pb2.DESCRIPTOR))
    return pool


def _as_v1(file: Any) -> descriptor_pb2.FileDescriptorProto:
    """Return reflection's own file under the name of its version 1; nothing else differs."""
    described = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
    text = text_format.MessageToString(described).replace("v1alpha", "v1")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
