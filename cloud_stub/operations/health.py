"""The standard health service, by which load balancers and orchestrators ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, Protocol

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format

from edge_runtime.errors import DependencyError
from edge_runtime.wire import messages as pb

# MERGEDOC cloud_stub/operations/reflection.py: 'Server reflection, by which tools such as grpcurl learn the calls and messages.'

try:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
except ImportError:
    raise DependencyError("grpcio-health-checking", "serving", "cloud") from None
try:
    from grpc_reflection.v1alpha import reflection, reflection_pb2
except ImportError:
    raise DependencyError("grpcio-reflection", "serving", "cloud") from None

DESCRIPTOR = health_pb2.DESCRIPTOR
SERVICE = DESCRIPTOR.services_by_name["Health"].full_name
_LOG: Final = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 1.0
_Response = health_pb2.HealthCheckResponse

V1ALPHA: Final = str(reflection.SERVICE_NAME)
V1: Final = V1ALPHA.replace("v1alpha", "v1")
SERVICES: Final = (pb.SERVICE, SERVICE, V1ALPHA, V1)


class Usable(Protocol):
    """A model that may become useless.

    Attributes:
        name: On the wire.
        is_usable: Whether it takes calls.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def is_usable(self) -> bool: ...  # noqa: D102


class Health(health_pb2_grpc.HealthServicer):
    """Says whether the server as a whole ("" or the service's name) and each model is serving.

    The whole is serving while every model is: nothing but a restart helps a model that is stuck,
    and by this an orchestrator knows. Those who prefer the other models' answers ask by name.

    Not grpc_health's own servicer, of whose watchers (1.81) all go deaf when one leaves, and keep
    a server that stops waiting.

    Args:
        models: The server's.
    """

    def __init__(self, models: Iterable[Usable]) -> None:
        self._models = {model.name: model for model in models}
        self._is_draining = False
        self._changed = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Answer a server's health calls."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def follow(self) -> None:
        """Tell those who watch when a model gets stuck or works again; runs until cancelled."""
        told = self._usable()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            found = self._usable()
            for name in found:
                if told[name] and not found[name]:
                    _LOG.error("model is stuck: start the server again", extra={"model": name})
            if found != told:
                told = found
                self._announce()

    def drain(self) -> None:
        """Say NOT_SERVING of everything from now on, and let those who watch go."""
        self._is_draining = True
        self._announce()

    def status(self, service: str) -> int | None:
        """Return what is said of a service, None where there is none of that name."""
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
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service or model is known here")
        return _Response(status=status)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer now and after every change, until the server drains."""
        said = None
        while True:
            changed = self._changed
            status = self.status(request.service)
            status = _Response.SERVICE_UNKNOWN if status is None else status
            if status != said:
                yield _Response(status=status)
                said = status
            if self._is_draining:
                return
            await changed.wait()

    def _usable(self) -> dict[str, bool]:
        return {name: model.is_usable for name, model in self._models.items()}

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def add_reflection(server: grpc.aio.Server) -> None:
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
        DESCRIPTOR,
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
