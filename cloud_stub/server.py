"""The serving process: listens, prints one line when ready, and ends calls in order on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final

import grpc

from cloud_stub.asynchronous import LoopFactory, run
from cloud_stub.errors import ListenError
from cloud_stub.models import Models, ServedModel, open_backend
from cloud_stub.operations import logs
from cloud_stub.operations.health import Health, add_reflection
from cloud_stub.operations.security import ServerCertificates
from cloud_stub.operations.tokens import TokenGuard
from cloud_stub.protocol.calls import Front
from cloud_stub.protocol.inference import Inference
from cloud_stub.protocol.pictures import PictureDecoder
from cloud_stub.scheduling import workers
from cloud_stub.scheduling.headroom import CallLimits, headroom
from cloud_stub.scheduling.statistics import Outcome
from cloud_stub.settings import ServeSettings
from edge_runtime.environment import toolkit_version
from edge_runtime.wire.address import join_address

_LOG: Final = logging.getLogger(__name__)
_DRAIN_S: Final = 1.0
"""Longest wait for callers to notice that the server takes no more calls."""
_CUT_OFF_S: Final = 0.1
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_OWN_FILES: Final = 256
"""Open files that connections leave to the server: models, tokens, certificates, metrics."""

# Connections are kept for clients that lose the network without notice: phones, vehicles, machines
# in the field.
_CONNECTION_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # Otherwise a second server on the port silently takes half of the calls.
    ("grpc.so_reuseport", 0),
    # Closes a connection that sends nothing, or its first bytes one by one. gRPC's own limit is two
    # minutes, for which it would cost a socket; gRPC's clients give up after these 20 s too.
    ("grpc.server_handshake_timeout_ms", 20_000),
    # A client that lost its network closes nothing. A ping a minute notices that; more pings would
    # keep the radio of a live client awake.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # In both directions: the server pings between calls too, and clients may.
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients that ping to keep a path through a router open must not be cut off for it; by default
    # gRPC does that after the third ping within ten minutes.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # Further calls of a connection wait on the client's side. Otherwise gRPC ends some of a flood,
    # and of the calls of others, as if their callers had cancelled them.
    ("grpc.max_concurrent_streams", 128),
    # With this on, gRPC lowers the limit under load and refuses calls that were within it.
    ("grpc.http.overload_protection", 0),
    # The same end without a reason comes to calls of many connections, from 1,000 on by default.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 10_000),
    # Both bounds: between them gRPC refuses headers by chance.
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 8 * 1024),
    # Closes the connection of a client without calls; its next call connects again.
    ("grpc.max_connection_idle_ms", 600_000),
)
# What arrives before a call may be read: on fast links gRPC would make it some MiB a call.
_TIGHT_OPTIONS: Final = (("grpc.http2.bdp_probe", 0),)
# A certificate is checked when a connection begins. With this limit a client with an expired
# certificate, or with an authority that is no longer trusted, is gone within the hour. Calls under
# way are finished, and the next one connects again.
_TLS_OPTIONS: Final = (("grpc.max_connection_age_ms", 3_600_000),)


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; calls in flight are finished first.

    Raises:
        ListenError: The address cannot be listened on.
        LimitError: The system's limit on memory leaves too little for calls.
        GatekeeperError: A model, or a file of certificates or tokens, cannot be opened.
    """
    log = logs.configure(settings.log, settings.log_level)
    try:
        _require_free(settings.host, settings.port)
        security = settings.security()
        certificates, guard = security.certificates(), security.guard()
        security.check_host(settings.host)
        connections = min(settings.max_connections, _raise_file_limit())
        workers.keep_freed()
        workers.take_short_turns()
        abandoned = run(_serve(settings, certificates, guard, log, connections), _loop_factory())
        for number in _STOPPING:  # at its end the interpreter would restore the deadly default
            signal.signal(number, signal.SIG_IGN)
    finally:
        log.close()
    if abandoned:
        # Their threads are inside a model, and the interpreter's exit would abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be bound, before a model is loaded for it.

    gRPC's own message names neither the port nor the reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: a port is free while its last connections are still closing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise _listen_error(host, port, error.strerror or str(error)) from None


def _listen_error(host: str, port: int, reason: str) -> ListenError:
    return ListenError(
        f"cannot listen on {join_address(host, port)} ({reason}): is the port in use? "
        "stop the other server, or choose another --port (0 takes a free one)"
    )


def _raise_file_limit() -> int:
    """Open as many files as the system allows; return the number of connections they suffice for.

    The usual soft limit is 1,024.
    """
    try:
        import resource
    except ImportError:  # not a Unix
        return 2**31 - 1
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems report no limit and then refuse to set it so.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 - 1 if soft == resource.RLIM_INFINITY else max(1, soft - _OWN_FILES)


def _loop_factory() -> LoopFactory | None:
    """Return the maker of uvloop's event loop; None, for asyncio's own, without uvloop.

    It saves 0.03 to 0.1 ms per call, most of it in the hand-over from the model's thread.
    """
    try:
        import uvloop
    except ImportError:  # Windows, or not installed
        return None
    return uvloop.new_event_loop


async def _serve(
    settings: ServeSettings,
    certificates: ServerCertificates | None,
    guard: TokenGuard | None,
    log: logs.Writer,
    connections: int,
) -> int:
    """Serve, and return the number of calls and workers that are abandoned at the end."""
    stop = asyncio.Event()
    # Before the models are opened, which takes a while.
    _await_signals(stop, asyncio.get_running_loop(), settings.grace_s)
    return await _Server(settings, certificates, guard, log, connections).serve(stop)


def _await_signals(stop: asyncio.Event, loop: asyncio.AbstractEventLoop, grace_s: float) -> None:
    """Set the event at the first signal to stop; say once that further ones change nothing.

    The loop's own handlers would end with it, and a signal would kill the process before its last
    answers are sent.
    """
    seen = itertools.count(1)

    def heed(*_: object) -> None:
        number = next(seen)
        if loop.is_closed():
            return
        if number == 1:
            loop.call_soon_threadsafe(stop.set)
        elif number == 2:  # noqa: PLR2004
            text = "already draining: the end comes with --grace-s (%g s)"
            loop.call_soon_threadsafe(_LOG.warning, text, grace_s)

    for number in _STOPPING:
        signal.signal(number, heed)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Suppress the line that gRPC prints about an error that is about to be raised here."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _limits(settings: ServeSettings) -> CallLimits:
    """Return the limits of calls that fit into the memory that is left beside the models."""
    asked = CallLimits(settings.max_message_mib, settings.max_memory_mib)
    left = headroom()
    limits = asked.within(left)
    if (limits.message_mib, limits.memory_mib) != (asked.message_mib, asked.memory_mib):
        text = (
            "the system gives %d MiB more: lowered --max-memory-mib to %d, --max-message-mib to %d"
        )
        numbers = (left or 0) // workers.MIB, limits.memory_mib, limits.message_mib
        _LOG.warning(text, *numbers)
    return limits


class _Server:
    """The parts of a serving process."""

    def __init__(
        self,
        settings: ServeSettings,
        certificates: ServerCertificates | None,
        guard: TokenGuard | None,
        log: logs.Writer,
        connections: int,
    ) -> None:
        self._settings, self._certificates, self._guard = settings, certificates, guard
        self._log, self._connections = log, connections
        self._models = Models(
            ServedModel(each.model, open_backend(each), each.limits(), each.bounds())
            for each in settings.each_model()
        )
        self._decoder = PictureDecoder(max(model.limits.max_queue for model in self._models))
        self._limits = _limits(settings)
        if self._limits.batch_bytes is not None:
            for model in self._models:
                model.bound_batches(self._limits.batch_bytes)
        self._memory = workers.MemoryBudget(self._limits.memory_mib * workers.MIB)
        self._inference = Inference(self._models, self._decoder, self._memory, logs.log_call)

    async def serve(self, stop: asyncio.Event) -> int:
        """Serve until the event is set; return the number of abandoned calls and workers."""
        front = Front(self._models, self._inference, self._limits.reads)
        health = Health(self._models)
        server = grpc.aio.server(
            interceptors=[] if self._guard is None else [self._guard], options=self._options()
        )
        server.add_generic_rpc_handlers((front.handler(),))
        health.add_to(server)
        add_reflection(server)
        port = self._listen(server)
        with self._metrics():
            # All objects of now are permanent: the collector need not visit them during a call.
            gc.collect()
            gc.freeze()
            await server.start()
            address = join_address(self._settings.host, port)
            print(f"cloud_stub: serving {self._model_names()} on {address}", flush=True)
            monitor = asyncio.create_task(health.monitor())
            await stop.wait()
            monitor.cancel()
            health.drain()
            await self._drain(front, server)
        return self._close()

    async def _drain(self, front: Front, server: grpc.aio.Server) -> None:
        """Refuse new calls, and finish those in flight within the grace."""
        until = monotonic() + self._settings.grace_s
        await front.drain(min(self._settings.grace_s, _DRAIN_S))
        await server.stop(max(0.0, until - monotonic()))
        if any(model.in_flight or model.waiting for model in self._models):
            # The end of the loop would print a traceback of a call that was just cut off.
            await asyncio.sleep(_CUT_OFF_S)

    def _options(self) -> list[tuple[str, int]]:
        message_bytes = self._limits.message_mib * workers.MIB
        limits = [(f"grpc.max_{way}_message_length", message_bytes) for way in ("receive", "send")]
        tls = () if self._certificates is None else _TLS_OPTIONS
        most = ("grpc.max_allowed_incoming_connections", self._connections)
        tight = () if self._limits.reads is None else _TIGHT_OPTIONS
        return [*_CONNECTION_OPTIONS, *tls, *limits, *tight, most]

    def _listen(self, server: grpc.aio.Server) -> int:
        host, port = self._settings.host, self._settings.port
        address = join_address(host, port)
        certificates = self._certificates
        credentials = None if certificates is None else certificates.credentials()
        try:
            with _silent_stderr():
                if credentials is None:
                    bound = server.add_insecure_port(address)
                else:
                    bound = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            _require_free(host, port)  # raises with the system's reason
            raise _listen_error(host, port, str(error)) from None
        if bound == 0:  # older releases of gRPC report an error this way
            raise _listen_error(host, port, "refused")
        return bound

    @contextlib.contextmanager
    def _metrics(self) -> Iterator[None]:
        """Serve `/metrics` during the block, if the settings ask for it."""
        port = self._settings.metrics_port
        if port is None:
            yield
            return
        from cloud_stub.operations.metrics import MetricsServer, ModelCollector

        collector = ModelCollector(self._models, {"version": toolkit_version()}, self._numbers())
        server = MetricsServer(self._settings.metrics_host, port, collector)
        _LOG.info("metrics are served", extra={"address": server.address})
        try:
            yield
        finally:
            server.close()

    def _numbers(self) -> dict[tuple[str, str], Callable[[], float | None]]:
        """Return the metrics that belong to no model; None leaves one out."""
        certificates, guard = self._certificates, self._guard
        return {
            ("stray_calls_total", "Inference calls that name no model here or cannot be read."): (
                lambda: self._inference.strays
            ),
            ("held_bytes", "Memory that calls hold now."): lambda: self._memory.held,
            ("dropped_log_lines_total", "Lines dropped by a full log."): lambda: self._log.dropped,
            ("unauthenticated_calls_total", "Calls refused for lack of an accepted token."): (
                lambda: None if guard is None else guard.refused
            ),
            ("certificate_expiry_timestamp_seconds", "Expiry of the server's certificate."): (
                lambda: None if certificates is None else certificates.validity.end.timestamp()
            ),
        }

    def _close(self) -> int:
        self._decoder.close()
        for model in self._models:
            model.close()
        answered = sum(model.statistics.outcomes[Outcome.ANSWERED] for model in self._models)
        ignored = sum(model.statistics.ignored_parameters for model in self._models)
        abandoned = sum(model.in_flight + model.hanging for model in self._models)
        if abandoned:
            _LOG.warning("calls are abandoned", extra={"calls": abandoned})
        _LOG.info(
            "stopped after %d answered calls", answered, extra={"ignored_parameters": ignored}
        )
        return abandoned

    def _model_names(self) -> str:
        return ", ".join(
            f"{model.name} ({len(model.backend.labels)} labels)"
            if model.backend.labels
            else model.name
            for model in self._models
        )
