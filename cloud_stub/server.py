"""The serving process: listens, says so in one line, and ends calls in order on a signal."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from typing import Any, Final

import grpc

from cloud_stub.backends.open import open_backend
from cloud_stub.errors import ListenError
from cloud_stub.protocol.calls import Front
from cloud_stub.protocol.inference import CallRecord, Inference
from cloud_stub.protocol.pictures import PictureDecoder
from cloud_stub.scheduling import memory
from cloud_stub.scheduling.statistics import Outcome
from cloud_stub.served import Models, ServedModel
from cloud_stub.settings import ServeSettings
from edge_runtime.errors import DependencyError
from edge_runtime.wire import messages as pb
from edge_runtime.wire.address import is_loopback, join_address

_OPTIONS: Final = (
    # Otherwise a second server on the port takes half of the calls in silence.
    ("grpc.so_reuseport", 0),
    # Clients that ping to keep their connection must not be cut off for it.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def run(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; calls in flight are finished first.

    Raises:
        ListenError: The address cannot be listened on.
        GatekeeperError: A model cannot be opened.
    """
    _check_free(settings.host, settings.port)
    if not is_loopback(settings.host):
        print(
            f"cloud_stub: warning: {settings.host} is reachable from other machines, in plaintext "
            "and without authentication: serve only to a network you trust",
            file=sys.stderr,
        )
    _raise_file_limit()
    memory.keep_freed()
    asyncio.run(_serve(settings))


def _check_free(host: str, port: int) -> None:
    """Refuse an address that cannot be bound, before a model is loaded for it.

    gRPC's own message names neither the port nor the reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise ListenError(_cannot_listen(host, port, error.strerror or str(error))) from None


def _cannot_listen(host: str, port: int, reason: str) -> str:
    return (
        f"cannot listen on {join_address(host, port)} ({reason}): is the port in use? "
        "stop the other server, or choose another --port (0 takes a free one)"
    )


def _raise_file_limit() -> None:
    """Allow as many connections as the system does; the usual soft limit is 1,024."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: ServeSettings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    models = Models(
        ServedModel(each.model, open_backend(each), each.limits()) for each in settings.each_model()
    )
    decoder = PictureDecoder(max(model.limits.max_queue for model in models))
    budget = memory.MemoryBudget(settings.max_memory_mib * memory.MIB)
    front = Front(models, Inference(models, decoder, budget, _ignore))
    message_bytes = settings.max_message_mib * memory.MIB
    limits = [(f"grpc.max_{way}_message_length", message_bytes) for way in ("receive", "send")]
    server = grpc.aio.server(options=[*_OPTIONS, *limits])
    server.add_generic_rpc_handlers((front.handler(),))
    health = await _add_health(server, models)
    port = _listen(server, settings)
    # What is there now stays: the collector need not look at it again in the middle of a call.
    gc.collect()
    gc.freeze()
    await server.start()
    address = join_address(settings.host, port)
    print(f"cloud_stub: serving {_named(models)} on {address}", flush=True)
    await stopping.wait()
    front.is_ready = False
    await health.enter_graceful_shutdown()
    await server.stop(settings.grace)
    decoder.close()
    for model in models:
        model.close()
    print(f"cloud_stub: stopped after {_summary(models)}", file=sys.stderr)


def _ignore(_: CallRecord) -> None:
    pass


def _named(models: Models) -> str:
    return ", ".join(
        f"{model.name} ({len(model.backend.labels)} labels)" if model.backend.labels else model.name
        for model in models
    )


def _summary(models: Models) -> str:
    answered = sum(model.statistics.outcomes[Outcome.ANSWERED] for model in models)
    ignored = sum(model.statistics.ignored_parameters for model in models)
    return f"{answered} answered calls, {ignored} unknown parameters ignored"


def _listen(server: grpc.aio.Server, settings: ServeSettings) -> int:
    try:
        port = server.add_insecure_port(join_address(settings.host, settings.port))
    except RuntimeError as error:
        raise ListenError(_cannot_listen(settings.host, settings.port, str(error))) from None
    if port == 0:  # how older releases of gRPC say it
        raise ListenError(_cannot_listen(settings.host, settings.port, "refused"))
    return port


async def _add_health(server: grpc.aio.Server, models: Models) -> Any:
    """Add the standard health service, by which load balancers and orchestrators ask."""
    try:
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    except ImportError:
        raise DependencyError("grpcio-health-checking", "serving", "cloud") from None
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
    for service in ("", pb.SERVICE, *(model.name for model in models)):
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer
