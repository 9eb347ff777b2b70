"""The calls of the protocol as gRPC handlers.

Requests are parsed here and not by gRPC, which would answer bytes that are not a message with
INTERNAL; here they are an INVALID_ARGUMENT like any other bad input.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from math import inf
from time import monotonic
from typing import Any, Final, NoReturn, TypeAlias

import grpc

from cloud_stub.asynchronous import TaskGroup, timeout
from cloud_stub.errors import (
    BadRequestError,
    CallError,
    OverloadError,
    UnavailableError,
    out_of_memory,
)
from cloud_stub.models import Models
from cloud_stub.protocol import responses
from cloud_stub.protocol.bounds import request_id
from cloud_stub.protocol.inference import Caller, Inference, OnPart, status_of
from edge_runtime import contract
from edge_runtime.environment import toolkit_version
from edge_runtime.errors import GatekeeperError
from edge_runtime.files import one_line
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

EXTENSIONS: Final = ("model_repository", "model_configuration", "statistics")
_PUSHBACK: Final = "grpc-retry-pushback-ms"
_DETAILS_LENGTH: Final = 500
_METADATA_BYTES: Final = 4096  # gRPC's clients accept 8,192, including the details
_ENTRY_BYTES: Final = 32  # overhead of an entry in HTTP/2
_PARTS_AHEAD: Final = 64
"""Most parts of one answer that wait to be read."""
_MOST_PLAIN_BYTES: Final = 1 << 16
"""Largest message of a call without inputs; it is read on the event loop."""
_QUIET_S: Final = 0.1
_AHEAD: Final = 16
"""Most requests of one stream that are worked on at once."""

_RECEIVED_WITHIN_S: Final = 30.0
"""Longest time in which a message must arrive where few may arrive at once."""

_PLACE_PUSHBACK_S: Final = 1.0

_Handle: TypeAlias = Callable[[bytes], Awaitable[bytes]]
_Replies: TypeAlias = "asyncio.Queue[bytes | None]"
_Line: TypeAlias = "asyncio.Queue[_Replies | OverloadError | None]"


class _Places:
    """Places for messages that arrive; for use from one event loop.

    Args:
        most: Number of places; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self._free = None if most is None else asyncio.Semaphore(most)

    async def receive(self, context: Any) -> bytes:
        """Wait for a place, and return the only message of a call.

        Raises:
            OverloadError: There is no place or no memory for it, or it did not arrive in time.
            BadRequestError: There is none.
        """
        try:
            if self._free is None:
                data = await context.read()
            else:
                async with timeout(_RECEIVED_WITHIN_S), self._free:
                    data = await context.read()
        except asyncio.TimeoutError:  # another class than Python's own until 3.11
            raise _no_place() from None
        except MemoryError:
            raise out_of_memory() from None
        if not isinstance(data, bytes):  # gRPC's mark of the end
            raise BadRequestError("expected a message, got none")
        return data

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold a place during the block, or raise an `OverloadError` if there is none."""
        if self._free is None:
            yield
        elif self._free.locked():
            raise _no_place()
        else:
            async with self._free:
                yield


def _no_place() -> OverloadError:
    text = "as many messages arrive as the memory of the server allows: try again later"
    return OverloadError(text, pushback_s=_PLACE_PUSHBACK_S)


class Front:
    """Answers the calls of the protocol.

    Args:
        models: The server's models.
        inference: Handler of the two inference calls.
        reads: Most calls, and most streams, whose messages arrive at once; None for any number.

    Attributes:
        is_ready: Whether inference calls are accepted; false while shutting down.
    """

    def __init__(self, models: Models, inference: Inference, reads: int | None = None) -> None:
        self._calls, self._streams = _Places(reads), _Places(reads)
        self.is_ready = True
        self._refused = 0
        self._models = models
        self._inference = inference

    def handler(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """Return the handler for `grpc.aio.Server.add_generic_rpc_handlers`."""
        handles: dict[str, _Handle] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }
        # As streams of one message: gRPC would receive it before anything else, and answer a lack
        # of memory with UNKNOWN.
        methods: dict[str, Any] = {
            name: grpc.stream_unary_rpc_method_handler(self._with_status(handle))
            for name, handle in handles.items()
        }
        methods["ModelInfer"] = grpc.stream_unary_rpc_method_handler(self._model_infer)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream_infer)
        return grpc.method_handlers_generic_handler(pb.SERVICE, methods)

    async def drain(self, within_s: float) -> None:
        """Refuse inference calls from now on, and wait until no more of them arrive.

        When gRPC stops, it ends the calls that it has not handed over yet as if their callers had
        cancelled them (grpc/grpc#41785): callers should be refused before that.

        Args:
            within_s: Longest wait, in seconds.
        """
        self.is_ready = False
        until = monotonic() + within_s
        seen = -1
        while seen != self._refused and monotonic() < until:
            seen = self._refused
            await asyncio.sleep(min(_QUIET_S, within_s))

    async def _server_live(self, data: bytes) -> bytes:
        tensors.parse(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, data: bytes) -> bytes:
        tensors.parse(pb.ServerReadyRequest, data)
        is_ready = self.is_ready and all(model.is_usable for model in self._models)
        return pb.ServerReadyResponse(ready=is_ready).SerializeToString()

    async def _model_ready(self, data: bytes) -> bytes:
        request = tensors.parse(pb.ModelReadyRequest, data)
        model = self._models.find(request.name, request.version)
        is_ready = self.is_ready and model.is_usable
        return pb.ModelReadyResponse(ready=is_ready).SerializeToString()

    async def _server_metadata(self, data: bytes) -> bytes:
        tensors.parse(pb.ServerMetadataRequest, data)
        response = pb.ServerMetadataResponse(
            name="cloud_stub", version=toolkit_version(), extensions=EXTENSIONS
        )
        return response.SerializeToString()

    async def _model_metadata(self, data: bytes) -> bytes:
        request = tensors.parse(pb.ModelMetadataRequest, data)
        model = self._models.find(request.name, request.version)
        return responses.model_metadata(model).SerializeToString()

    async def _model_config(self, data: bytes) -> bytes:
        request = tensors.parse(pb.ModelConfigRequest, data)
        model = self._models.find(request.name, request.version)
        return responses.model_config(model).SerializeToString()

    async def _model_statistics(self, data: bytes) -> bytes:
        request = tensors.parse(pb.ModelStatisticsRequest, data)
        models = self._models
        chosen = [models.find(request.name, request.version)] if request.name else models
        return responses.model_statistics(chosen).SerializeToString()

    async def _repository_index(self, data: bytes) -> bytes:
        request = tensors.parse(pb.RepositoryIndexRequest, data)
        response = responses.repository_index(
            self._models, is_ready=self.is_ready, ready_only=request.ready
        )
        return response.SerializeToString()

    async def _model_infer(self, _: Any, context: Any) -> bytes:
        try:
            return await self._answer(await self._calls.receive(context), _caller(context))
        except GatekeeperError as error:
            failure = _bare(error)
        return await _abort(context, failure)

    def _with_status(self, handle: _Handle) -> Callable[[Any, Any], Awaitable[bytes]]:
        """Turn the errors of a call into its gRPC status and one line of text."""

        async def call(_: Any, context: Any) -> bytes:
            try:
                data = await self._calls.receive(context)
                if len(data) > _MOST_PLAIN_BYTES:
                    raise BadRequestError(
                        f"expected a message of at most {_MOST_PLAIN_BYTES} bytes, got {len(data)}"
                    )
                return await handle(data)
            except MemoryError:
                await _abort(context, out_of_memory())
            except GatekeeperError as error:
                await _abort(context, error)

        return call

    async def _answer(self, data: bytes, caller: Caller, on_part: OnPart | None = None) -> bytes:
        if not self.is_ready:
            self._refused += 1
            raise UnavailableError("the server is shutting down")
        try:
            return await self._inference.answer(data, caller, on_part)
        except MemoryError:
            raise out_of_memory() from None

    async def _stream_infer(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Answer a stream's requests in their order, several at a time.

        As in Triton, an error answers its request and the stream continues.
        """
        caller = _caller(context)
        line: _Line = asyncio.Queue(_AHEAD)
        try:
            async with self._streams.hold(), TaskGroup() as group:
                reader = group.create_task(self._read(requests, line, caller, group))
                try:
                    failure = await _write_all(line, context)
                finally:
                    reader.cancel()
        except OverloadError as error:
            failure = error
        if failure is not None:
            await _abort(context, failure)

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        line: _Line,
        caller: Caller,
        group: TaskGroup,
    ) -> None:
        end: OverloadError | None = None
        try:
            async for data in requests:
                replies: _Replies = asyncio.Queue()
                await line.put(replies)
                group.create_task(self._reply(data, caller, replies))
        except MemoryError:  # the message is lost, and with it the order of the stream
            end = out_of_memory()
        await line.put(end)

    async def _reply(self, data: bytes, caller: Caller, replies: _Replies) -> None:
        try:
            whole = await self._answer(data, caller, lambda part: _pass_on(replies, part))
            replies.put_nowait(_wrap(whole))
        except GatekeeperError as error:
            replies.put_nowait(_wrap_error(data, _bare(error)))
        finally:
            replies.put_nowait(None)


async def _write_all(line: _Line, context: Any) -> OverloadError | None:
    """Write the answers of a stream in order; return the error that ended it, or None."""
    while isinstance(replies := await line.get(), asyncio.Queue):
        while (reply := await replies.get()) is not None:
            await context.write(reply)
    return replies


def _pass_on(replies: _Replies, part: bytes) -> None:
    # A slow reader misses some parts: each part holds all that the ones before it held.
    if replies.qsize() < _PARTS_AHEAD:
        replies.put_nowait(_wrap(part))


def _caller(context: Any) -> Caller:
    left_s = context.time_remaining()
    return Caller(context.peer(), inf if left_s is None else monotonic() + left_s)


def _bare(error: GatekeeperError) -> GatekeeperError:
    """Return an error without the frames that it went through.

    They hold the message, and gRPC's end of the call holds the error: the next full collection
    alone would free them, and a flood of refused calls fill the memory.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


async def _abort(context: Any, error: GatekeeperError) -> NoReturn:
    trailing = tuple(_row_entries(error.reasons)) if isinstance(error, CallError) else ()
    if isinstance(error, OverloadError):
        # A negative number stops gRPC's own retries.
        pushback_ms = -1 if error.pushback_s is None else max(1, round(error.pushback_s * 1e3))
        trailing = ((_PUSHBACK, str(pushback_ms)),)
    await context.abort(status_of(error), _line(error), trailing)
    raise AssertionError("abort always raises")


def _row_entries(reasons: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    """Yield the refused rows of a call, as many as metadata may hold.

    A caller that sends the other rows again then gets the rest.
    """
    room = _METADATA_BYTES
    for row, why in reasons.items():
        value = f"{row} {_line(why)}".encode("ascii", "replace").decode()
        room -= len(contract.REFUSED_ROW) + len(value) + _ENTRY_BYTES
        if room < 0:
            return
        yield contract.REFUSED_ROW, value


def _line(error: GatekeeperError | str) -> str:
    """Return an error's text; names in it come from the caller and may hold anything."""
    return one_line(error, _DETAILS_LENGTH)


def _wrap(response: bytes) -> bytes:
    """Put a serialised response into a stream's message without parsing it again."""
    return tensors.wrap(pb.ModelStreamInferResponse, "infer_response", response)


def _wrap_error(data: bytes, error: GatekeeperError) -> bytes:
    message = pb.ModelStreamInferResponse(error_message=_line(error))
    message.infer_response.id = request_id(data)
    return message.SerializeToString()
