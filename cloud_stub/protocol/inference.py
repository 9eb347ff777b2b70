"""ModelInfer and ModelStreamInfer: from a request's bytes to the bytes of its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias

import grpc
import numpy as np

from cloud_stub.backends.backend import Column, Outputs, TensorSpec
from cloud_stub.errors import (
    BadRequestError,
    CallError,
    ExpiredError,
    ModelFailureError,
    NotServedError,
    OverloadError,
    UnavailableError,
    out_of_memory,
)
from cloud_stub.models import Models, ServedModel
from cloud_stub.protocol import requests
from cloud_stub.protocol.bounds import parse_request
from cloud_stub.protocol.pictures import PictureDecoder
from cloud_stub.protocol.responses import infer_response, unpacked_bytes
from cloud_stub.scheduling.queue import Job
from cloud_stub.scheduling.statistics import Histogram, Outcome, Received, Statistics
from cloud_stub.scheduling.workers import MemoryBudget, Trimmer
from edge_runtime import contract
from edge_runtime.errors import GatekeeperError, lacks_memory
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

_LOG: Final = logging.getLogger(__name__)
_MOST_VERSIONS: Final = 16
_UNKNOWN: Final = "unknown"
_MOST_INLINE_BYTES: Final = 1 << 20
"""Objects made from a message, or written to one, on the event loop.

Larger ones are read or written in a thread: all other calls would wait too long.
"""
_CLOCKS_APART_S: Final = 0.02
"""A caller also cancels a call past its deadline, and the cancellation may arrive early."""

OnPart: TypeAlias = Callable[[bytes], None]


@dataclass(frozen=True)
class Caller:
    """The caller of an inference call.

    Attributes:
        client: Its connection; connections take turns.
        deadline: Time at which it gives up, on the clock of `time.monotonic`.
    """

    client: str
    deadline: float


class CallRecord(NamedTuple):
    """One inference call, for the log; none of its content.

    Attributes:
        model: Name of the model it asked for.
        request_id: Its id, as the caller chose it.
        client: Its connection.
        rows: Inputs; 0 if the request could not be read.
        outcome: Its end.
        code: Its gRPC status.
        queue_s: Seconds that it waited for the model.
        compute_s: Seconds that the model worked on its batch.
        total_s: Seconds from its last byte to the answer's first.
    """

    model: str
    request_id: str
    client: str
    rows: int
    outcome: Outcome
    code: grpc.StatusCode
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0


class Inference:
    """Answers inference calls.

    Args:
        models: The server's models.
        decoder: Decoder of picture files.
        memory: Memory that all calls may hold.
        on_call: Function that gets the record of every call at its end.

    Attributes:
        strays: Calls that could not be read, or asked for a model that is not served here.
    """

    def __init__(
        self,
        models: Models,
        decoder: PictureDecoder,
        memory: MemoryBudget,
        on_call: Callable[[CallRecord], None],
    ) -> None:
        self.strays = 0
        self._models = models
        self._decoder = decoder
        self._memory, self._trimmer = memory, Trimmer()
        self._on_call = on_call

    async def answer(self, data: bytes, caller: Caller, on_part: OnPart | None = None) -> bytes:
        """Return the serialised `ModelInferResponse`.

        Args:
            data: A serialised `ModelInferRequest`.
            caller: The caller.
            on_part: Function that gets a response for every part of an answer that grows, before
                the complete one.

        Raises:
            GatekeeperError: The call is refused, or the model failed.
        """
        request, contents, model = await self._parse(data, caller)
        call = _Call(request, contents, model, caller)
        try:
            # Elements that become Python objects take more memory than they did in the message.
            unpacked = requests.unpacked_bytes(request, len(data))
            call.held_bytes += self._memory.take(len(data) + unpacked)
            call.is_large = unpacked > _MOST_INLINE_BYTES
            reply = await self._infer(call, on_part)
        except asyncio.CancelledError:
            is_late = monotonic() >= caller.deadline - _CLOCKS_APART_S
            error = ExpiredError("the deadline passed") if is_late else None
            self._record(call, error, is_cancelled=not is_late)
            raise
        except GatekeeperError as error:
            self._record(call, error)
            raise
        except Exception as error:
            # In a stream it would end the other calls as well.
            failure = _failure(error)
            self._record(call, failure)
            raise failure from error
        finally:
            self._memory.release(call.held_bytes)
            self._trimmer.note(call.held_bytes)
        self._record(call, None)
        return reply

    async def _parse(
        self, data: bytes, caller: Caller
    ) -> tuple[pb.ModelInferRequest, list[memoryview], ServedModel]:
        """Return the request, its raw contents and its model; a stray call counts for no model."""
        request = pb.ModelInferRequest()
        try:
            request, contents = await parse_request(data)
            return request, contents, self._models.find(request.model_name, request.model_version)
        except GatekeeperError as error:
            self.strays += 1
            code = status_of(error)
            name, request_id = request.model_name, request.id
            self._on_call(CallRecord(name, request_id, caller.client, 0, Outcome.INVALID, code))
            raise

    async def _infer(self, call: _Call, on_part: OnPart | None) -> bytes:
        request, signature = call.request, call.model.signature
        specs = requests.select_outputs(request, signature)
        columns = await self._read(call)
        call.job = job = Job(
            columns,
            call.rows,
            key=requests.batch_key(columns, signature),
            client=call.caller.client,
            deadline=call.caller.deadline,
            on_part=None if on_part is None else _part_sender(request, specs, on_part),
        )
        call.input_s = monotonic() - call.began
        result = await call.model.calls.run(job)
        call.compute_s = result.compute_s
        begin = monotonic()
        outputs = result.outputs
        write = partial(infer_response, request, specs, outputs, compute_s=result.compute_s)
        if unpacked_bytes(request, specs, outputs) > _MOST_INLINE_BYTES:
            reply = await asyncio.to_thread(write)
        else:
            reply = write()
        call.output_s = monotonic() - begin
        return reply

    async def _read(self, call: _Call) -> Mapping[str, Column]:
        signature = call.model.signature
        bounds = call.model.bounds
        read = partial(requests.read_inputs, call.request, call.contents, signature, bounds)
        inputs = await asyncio.to_thread(read) if call.is_large else read()
        columns = inputs.columns
        if inputs.is_encoded:
            columns = await self._decode(columns, call)
        if signature.parameters:
            parameters = requests.read_parameters(call.request, signature, inputs.rows)
            columns = {**columns, **parameters}
        call.rows = inputs.rows
        return columns

    async def _decode(self, columns: Mapping[str, Column], call: _Call) -> Mapping[str, Column]:
        ((name, column),) = columns.items()
        encoded: Any = column

        def hold(size: int) -> None:
            call.held_bytes += self._memory.take(size)

        images = await self._decoder.decode(
            list(encoded),
            client=call.caller.client,
            deadline=call.caller.deadline,
            max_pixels=call.model.bounds.max_pixels,
            hold=hold,
        )
        requests.check_size(images, call.model.signature.inputs[0])
        if len(images) == 1:
            return {name: images[0][None]}
        size = sum(image.nbytes for image in images)
        if len({image.shape for image in images}) == 1 and size <= _MOST_INLINE_BYTES:
            return {name: np.stack(images)}  # joins calls with arrays of that size
        return {name: images}

    def _record(
        self, call: _Call, error: GatekeeperError | None, *, is_cancelled: bool = False
    ) -> None:
        outcome = Outcome.CANCELLED if is_cancelled else outcome_of(error)
        total_s = monotonic() - call.began
        call.count(outcome, total_s)
        code = grpc.StatusCode.CANCELLED if is_cancelled else status_of(error)
        self._on_call(
            CallRecord(
                call.model.name,
                call.request.id,
                call.caller.client,
                call.rows,
                outcome,
                code,
                call.queue_s,
                call.compute_s,
                total_s,
            )
        )


@dataclass(slots=True, eq=False)
class _Call:
    """The state of a call while it runs."""

    request: pb.ModelInferRequest
    contents: list[memoryview]
    model: ServedModel
    caller: Caller
    began: float = field(default_factory=monotonic)
    rows: int = 0
    held_bytes: int = 0
    is_large: bool = False
    job: Job | None = None
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0

    @property
    def queue_s(self) -> float:
        return 0.0 if self.job is None else self.job.queue_s

    def count(self, outcome: Outcome, total_s: float) -> None:
        """Add the call to the model's figures."""
        statistics = self.model.statistics
        statistics.outcomes[outcome] += 1
        if outcome is not Outcome.ANSWERED:
            statistics.failed_s += total_s
            return
        statistics.rows += self.rows
        statistics.last_unix_s = time.time()
        statistics.latency.observe(total_s)
        statistics.queue_wait.observe(self.queue_s)
        statistics.input_s += self.input_s
        statistics.output_s += self.output_s
        statistics.ignored_parameters += requests.count_unknown_parameters(
            self.request, self.model.signature
        )
        _count_received(statistics, self.request, self.rows)


def outcome_of(error: GatekeeperError | None) -> Outcome:
    """Return the outcome of a call that raised an error, or none."""
    if error is None:
        return Outcome.ANSWERED
    if isinstance(error, BadRequestError | NotServedError | tensors.WireError):
        return Outcome.INVALID
    if isinstance(error, OverloadError | UnavailableError):
        return Outcome.SHED
    return Outcome.EXPIRED if isinstance(error, ExpiredError) else Outcome.FAILED


def _failure(error: Exception) -> CallError:
    """Return the error of a call that failed outside of the model."""
    if lacks_memory(error):
        _LOG.warning("no memory was left for a call")
        return out_of_memory()
    _LOG.error("call failed", exc_info=error)
    return ModelFailureError(f"the server failed: {type(error).__name__}: {error}")


def status_of(error: GatekeeperError | None) -> grpc.StatusCode:
    """Return the gRPC status of a call that raised an error, or none."""
    if error is None:
        return grpc.StatusCode.OK
    if isinstance(error, CallError):
        return error.code
    if isinstance(error, tensors.WireError):
        return BadRequestError.code
    return grpc.StatusCode.FAILED_PRECONDITION


def _part_sender(
    request: pb.ModelInferRequest, specs: Sequence[TensorSpec], on_part: OnPart
) -> Callable[[Outputs], None]:
    """Return the function that gets the parts of an answer in a worker's thread."""
    loop = asyncio.get_running_loop()

    def send(outputs: Outputs) -> None:
        data = infer_response(request, specs, outputs, compute_s=None)
        loop.call_soon_threadsafe(on_part, data)

    return send


def _count_received(statistics: Statistics, request: pb.ModelInferRequest, rows: int) -> None:
    """Count the figures that an edge reports with the inputs it forwards."""
    parameters = request.parameters
    if contract.PARAMETER_CONFIDENCE not in parameters:
        return
    version = _UNKNOWN
    if contract.PARAMETER_CONTRACT in parameters:
        version = parameters[contract.PARAMETER_CONTRACT].string_param[:_MOST_VERSIONS]
    received = statistics.received
    # Any client may send anything: the number of versions is bounded.
    if version not in received and len(received) >= _MOST_VERSIONS:
        version = _UNKNOWN
    entry = received.setdefault(version, Received())
    # At most one per input: a text as long as a message may be would keep all others waiting.
    texts = parameters[contract.PARAMETER_CONFIDENCE].string_param.split(",", rows)[:rows]
    _observe(entry, entry.confidence, texts)
    if contract.PARAMETER_THRESHOLD in parameters:
        text = parameters[contract.PARAMETER_THRESHOLD].string_param
        _observe(entry, entry.threshold, [text])


def _observe(received: Received, histogram: Histogram, texts: list[str]) -> None:
    for text in texts:
        try:
            value = float(text)
        except ValueError:
            received.invalid += 1
            continue
        if value - value == 0:  # finite
            histogram.observe(value)
        else:
            received.invalid += 1
