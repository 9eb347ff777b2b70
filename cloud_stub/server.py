"""The serving process: listens, says so in one line, and ends calls in order on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final

import grpc

from cloud_stub.backends.open import open_backend
from cloud_stub.errors import ListenError
from cloud_stub.operations import connections, logs
from cloud_stub.operations.health import Health, add_reflection
from cloud_stub.operations.security import ServerCertificates
from cloud_stub.operations.tokens import TokenGuard
from cloud_stub.protocol.calls import Front, toolkit_version
from cloud_stub.protocol.inference import Inference
from cloud_stub.protocol.pictures import PictureDecoder
from cloud_stub.scheduling import workers
from cloud_stub.scheduling.statistics import Outcome
from cloud_stub.served_model import Models, ServedModel
from cloud_stub.settings import ServeSettings
from edge_runtime.wire.address import join_address

_LOG: Final = logging.getLogger(__name__)
_DRAIN_S: Final = 1.0
"""Longest wait for callers to notice that calls are taken no more."""
_LAST_WORDS_S: Final = 0.1


def run(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; calls in flight are finished first.

    Raises:
        ListenError: The address cannot be listened on.
        GatekeeperError: A model cannot be opened, or a file of certificates or tokens.
    """
    log = logs.configure(settings.log, settings.log_level)
    try:
        _check_free(settings.host, settings.port)
        security = settings.security()
        certificates, guard = security.certificates(), security.guard()
        security.check_host(settings.host)
        _raise_file_limit()
        workers.keep_freed()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            unfinished = runner.run(_serve(settings, certificates, guard, log))
    finally:
        log.close()
    if unfinished:
        # Their threads are inside a model, and the interpreter's end would abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


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
    # Some systems say that there is no limit, and then refuse to have it set so.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return how to make uvloop's event loop, or None: asyncio's own does as well.

    It takes 0.03 to 0.1 ms off a call, most of it in the hand-over from the model's thread.
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
) -> int:
    """Serve, and return how many calls and workers are given up at the end."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Before the models are opened, which takes a while.
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return await _Serving(settings, certificates, guard, log).serve(stopping)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep gRPC from writing a line of its own about what is an error of ours in a moment."""
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


class _Serving:
    """What a serving process is made of."""

    def __init__(
        self,
        settings: ServeSettings,
        certificates: ServerCertificates | None,
        guard: TokenGuard | None,
        log: logs.Writer,
    ) -> None:
        self._settings, self._certificates, self._guard = settings, certificates, guard
        self._log = log
        self._models = Models(
            ServedModel(each.model, open_backend(each), each.limits())
            for each in settings.each_model()
        )
        self._decoder = PictureDecoder(max(model.limits.max_queue for model in self._models))
        self._memory = workers.MemoryBudget(settings.max_memory_mib * workers.MIB)
        self._inference = Inference(self._models, self._decoder, self._memory, logs.log_call)

    async def serve(self, stopping: asyncio.Event) -> int:
        """Serve until told to stop; return what is given up."""
        front, health = Front(self._models, self._inference), Health(self._models)
        server = grpc.aio.server(
            interceptors=[] if self._guard is None else [self._guard], options=self._options()
        )
        server.add_generic_rpc_handlers((front.handler(),))
        health.add_to(server)
        add_reflection(server)
        port = self._listen(server)
        with self._metrics():
            # What is there now stays: the collector need not look at it again in the middle of a
            # call.
            gc.collect()
            gc.freeze()
            await server.start()
            address = join_address(self._settings.host, port)
            print(f"cloud_stub: serving {self._named()} on {address}", flush=True)
            following = asyncio.create_task(health.follow())
            await stopping.wait()
            following.cancel()
            health.drain()
            await self._end(front, server)
        return self._close()

    async def _end(self, front: Front, server: grpc.aio.Server) -> None:
        """Refuse what comes, and finish within the grace what was taken."""
        until = monotonic() + self._settings.grace
        await front.drain(min(self._settings.grace, _DRAIN_S))
        await server.stop(max(0.0, until - monotonic()))
        if any(model.batcher.in_flight or model.batcher.waiting for model in self._models):
            # Of a call that the end of the grace cut off the loop's own end would print a
            # traceback.
            await asyncio.sleep(_LAST_WORDS_S)

    def _options(self) -> list[tuple[str, int]]:
        message_bytes = self._settings.max_message_mib * workers.MIB
        limits = [(f"grpc.max_{way}_message_length", message_bytes) for way in ("receive", "send")]
        secured = () if self._certificates is None else connections.SECURED_OPTIONS
        return [*connections.OPTIONS, *secured, *limits]

    def _listen(self, server: grpc.aio.Server) -> int:
        settings = self._settings
        address = join_address(settings.host, settings.port)
        certificates = self._certificates
        credentials = None if certificates is None else certificates.credentials()
        try:
            with _silent_stderr():
                if credentials is None:
                    port = server.add_insecure_port(address)
                else:
                    port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            _check_free(settings.host, settings.port)  # which knows the system's own words
            raise ListenError(_cannot_listen(settings.host, settings.port, str(error))) from None
        if port == 0:  # how older releases of gRPC say it
            raise ListenError(_cannot_listen(settings.host, settings.port, "refused"))
        return port

    @contextlib.contextmanager
    def _metrics(self) -> Iterator[None]:
        """Serve `/metrics` during the block, where that is asked for."""
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
            ("held_bytes", "What the calls in the server hold now."): lambda: self._memory.held,
            ("dropped_log_lines_total", "Lines that found the log's queue full."): (
                lambda: self._log.dropped
            ),
            ("unauthenticated_calls_total", "Calls refused for want of an accepted token."): (
                lambda: None if guard is None else guard.refused
            ),
            ("certificate_expiry_timestamp_seconds", "When the server's certificate ends."): (
                lambda: None if certificates is None else certificates.validity.end.timestamp()
            ),
        }

    def _close(self) -> int:
        self._decoder.close()
        for model in self._models:
            model.close()
        answered = sum(model.statistics.outcomes[Outcome.ANSWERED] for model in self._models)
        ignored = sum(model.statistics.ignored_parameters for model in self._models)
        unfinished = sum(model.batcher.in_flight + model.batcher.hanging for model in self._models)
        if unfinished:
            _LOG.warning("calls are given up", extra={"calls": unfinished})
        _LOG.info(
            "stopped after %d answered calls", answered, extra={"ignored_parameters": ignored}
        )
        return unfinished

    def _named(self) -> str:
        return ", ".join(
            f"{model.name} ({len(model.backend.labels)} labels)"
            if model.backend.labels
            else model.name
            for model in self._models
        )
