"""The standard gRPC services for load balancers and tools: health and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format

from cloud_stub.models import ServedModel
from edge_runtime.errors import DependencyError
from edge_runtime.wire import messages as pb

try:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
except ImportError:
    raise DependencyError("grpcio-health-checking", "serving", "serve") from None
try:
    from grpc_reflection.v1alpha import reflection, reflection_pb2
except ImportError:
    raise DependencyError("grpcio-reflection", "serving", "serve") from None

SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_LOG: Final = logging.getLogger(__name__)
_CHECK_EVERY_S: Final = 1.0
_Response = health_pb2.HealthCheckResponse

V1ALPHA: Final = str(reflection.SERVICE_NAME)
V1: Final = V1ALPHA.replace("v1alpha", "v1")
SERVICES: Final = (pb.SERVICE, SERVICE, V1ALPHA, V1)


class Health(health_pb2_grpc.HealthServicer):
    """Reports whether the server as a whole ("" or the service's name) and each model is serving.

    The server is serving while every model is: only a restart helps a model that is stuck, and
    this is how an orchestrator learns of it. To ask about the other models, use their names.

    Not grpc_health's own servicer (1.81): when one of its watchers leaves, the others get no more
    news, and they delay a server that stops.

    Args:
        models: The server's models.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self._is_draining = False
        self._changed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Answer a server's health calls."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def monitor(self) -> None:
        """Notify watchers when a model gets stuck or works again; runs until cancelled."""
        before = self._usable()
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            now = self._usable()
            for name in now:
                if before[name] and not now[name]:
                    _LOG.error("model is stuck: restart the server", extra={"model": name})
            if now != before:
                before = now
                self._notify()

    def drain(self) -> None:
        """Report NOT_SERVING for everything from now on, and release the watchers."""
        self._is_draining = True
        self._notify()

    def status(self, service: str) -> int | None:
        """Return the status of a service; None if there is none of that name."""
        if service in {"", pb.SERVICE}:
            is_usable = all(self._usable().values())
        elif service in self._models:
            is_usable = self._models[service].is_usable
        else:
            return None
        serving = is_usable and not self._is_draining
        return int(_Response.SERVING if serving else _Response.NOT_SERVING)

    async def Check(self, request: Any, context: Any) -> Any:
        """Answer once."""
        status = self.status(request.service)
        if status is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, "this server has no such service or model"
            )
        return _Response(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer now and after every change, until the server drains."""
        sent = None
        while True:
            changed = self._changed
            status = self.status(request.service)
            status = _Response.SERVICE_UNKNOWN if status is None else status
            if status != sent:
                yield _Response(status=status)
                sent = status
            if self._is_draining:
                return
            await changed.wait()

    def _usable(self) -> dict[str, bool]:
        return {name: model.is_usable for name, model in self._models.items()}

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def add_reflection(server: grpc.aio.Server) -> None:
    """Answer a server's reflection calls under both names that tools such as grpcurl use.

    grpcio-reflection offers only v1alpha; v1 differs from it only in the name, and newer tools try
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
    """Return a pool with the files of this server only.

    The process-wide pool lacks the protocol's messages, or holds another library's under the same
    names.
    """
    pool = descriptor_pool.DescriptorPool()
    for file in (
        pb.ModelInferRequest.DESCRIPTOR.file,
        health_pb2.DESCRIPTOR,
        reflection_pb2.DESCRIPTOR,
    ):
        pool.AddSerializedFile(file.serialized_pb)
    pool.Add(_as_v1(reflection_pb2.DESCRIPTOR))
    return pool


def _as_v1(file: Any) -> descriptor_pb2.FileDescriptorProto:
    """Return the description of reflection v1alpha under the name v1; nothing else differs."""
    described = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
    text = text_format.MessageToString(described).replace("v1alpha", "v1")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
