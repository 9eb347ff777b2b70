"""The large model M_L behind the Open Inference Protocol, as the edge device calls it.

    cloud = CloudModel.open("localhost:8001", labels=("cat", "dog"))
    answers = cloud.infer(images)  # uint8 [n, h, w, 3], or an object array [n] of texts

Every call has a deadline and ends in an answer or in a `CloudError`. Retries are gRPC's own: a call
that met an unavailable server is tried again within its deadline. A server that stays away is asked
no more until a probe in the background finds it (`breaker`).
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

import grpc
import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.cloud.base import CloudAnswers
from edge_runtime.cloud.breaker import BreakerSettings, CircuitBreaker
from edge_runtime.cloud.connection import Lanes, Link
from edge_runtime.cloud.failures import one_line
from edge_runtime.cloud.security import Security
from edge_runtime.errors import (
    CloudError,
    CloudMisconfiguredError,
    CloudOverloadedError,
    CloudProtocolError,
    CloudUnavailableError,
    InputError,
    SettingError,
)
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors
from edge_runtime.wire.answers import AnswerReader, TextReader

DEFAULT_DEADLINE_S: Final = 0.5
DEFAULT_PROBE_S: Final = 1.0
_PROBE_S: Final = 1.0
"""How long one probe waits; a new one connects anew, so it also ends a connection that hangs."""
_NUMERIC: Final = {np.dtype(np.uint8), np.dtype(np.float32)}
_CONTRACT: Final = str(contract.CONTRACT_VERSION)
# Who refuses a probe in other words than these is there, and the next call shows what it can do.
_GONE: Final = (CloudUnavailableError, CloudMisconfiguredError, CloudOverloadedError, TimeoutError)


class CloudModel:
    """A large model on a server; safe to share between threads, not across `fork()`.

    Made by `open`. Usable as a context manager, which closes it.
    """

    def __init__(
        self,
        link: Link,
        *,
        model: str,
        reader: AnswerReader | TextReader,
        cloud_input: str,
        deadline_s: float,
        breaker: BreakerSettings,
    ) -> None:
        self.address = link.address
        self.model = model
        self.deadline_s = deadline_s
        self.breaker = CircuitBreaker(self._probe, breaker)
        self._reader = reader
        # A foreign engine has the input of its model, and decodes nothing.
        self.takes_files = reader.output is None
        self._input = cloud_input
        self._link = link
        self._lanes = Lanes(link.connect())
        # The prefix tells apart devices in a server's log.
        self._id_prefix = secrets.token_hex(4)
        self._id_number = itertools.count()

    @classmethod
    def open(
        cls,
        address: str,
        model: str = contract.DEFAULT_MODEL,
        *,
        labels: Sequence[str] | None,
        deadline_s: float = DEFAULT_DEADLINE_S,
        allow_plaintext: bool = False,
        security: Security | None = None,
        probe_s: float | None = DEFAULT_PROBE_S,
        cloud_input: str = contract.IMAGE,
        cloud_output: str | None = None,
        cloud_reduce: Literal["argmax"] | None = None,
        cloud_labels: Sequence[str] | None = None,
        breaker: BreakerSettings | None = None,
    ) -> Self:
        """Prepare calls to a server; it need not be up yet.

        Where it is, it is asked once whether the model is ready, without an input.

        Args:
            address: `HOST:PORT`.
            model: The model's name on the server.
            labels: The edge model's class names; answers are mapped to them by name. None where
                M_L generates text.
            deadline_s: Limit of a call including its retries, over 0.
            allow_plaintext: Send inputs unencrypted to another machine.
            security: TLS, and the client certificate or token to show; plaintext where None.
            probe_s: How long to look for mistakes in certificates, token and protection; None
                leaves them to the first call.
            cloud_input: Name of the input tensor.
            cloud_output: For a foreign engine, the output that holds the answer: class names,
                class indices, or scores to reduce. Its other outputs are ignored.
            cloud_reduce: `argmax` when `cloud_output` holds scores [n, classes].
            cloud_labels: Class names in the foreign engine's order; `labels` when not given.
            breaker: When the circuit breaker opens.

        Raises:
            SettingError: A setting makes no sense, the label sets differ, a file of `security` is
                missing or malformed, or the address is another machine's and plaintext was not
                allowed.
            CloudMisconfiguredError: The server is there, and certificates, token or protection do
                not fit. A server that is not there is no error.
        """
        link = Link(address, security, allow_plaintext=allow_plaintext)
        _check_deadline(deadline_s)
        reader = _reader(labels, cloud_output, cloud_reduce, cloud_labels)
        cloud = cls(
            link,
            model=model,
            reader=reader,
            cloud_input=cloud_input,
            deadline_s=deadline_s,
            breaker=breaker or BreakerSettings(),
        )
        if probe_s is not None:
            try:
                link.probe(lambda limit_s: cloud.check(deadline_s=limit_s), probe_s)
            except BaseException:
                cloud.close()
                raise
        return cloud

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        confidences: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
        threshold: float | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> CloudAnswers:
        """Ask M_L about a batch.

        Args:
            rows: Pictures uint8 [n, h, w, 3], encoded pictures as an object array [n] of bytes,
                texts as one of str, or float32 for an engine that takes a model's own input.
            confidences: M_S's confidences [n], told to the server as `gatekeeper_confidence`.
            threshold: M_S's threshold, told as `gatekeeper_threshold`.
            deadline_s: Limit of this call instead of the model's own.
            request_id: Names the request in the server's log; made up when not given.

        Raises:
            CloudUnavailableError: Nothing answers at the address, or the breaker is open.
            CloudDeadlineError: No answer in time.
            CloudOverloadedError: The server has too much to do.
            CloudMisconfiguredError: Certificate, token or protection do not fit.
            CloudRejectedError: The server refused or failed.
            CloudProtocolError: The answer is not what was asked for.
            InputError: The array is neither uint8, float32 nor texts, or has no rows.
            SettingError: The deadline is not over 0.
        """
        request_id = request_id or f"{self._id_prefix}-{next(self._id_number)}"
        data = self._request(request_id, rows, confidences, threshold)
        self.breaker.check()
        lane = self._lanes.enter()
        try:
            reply = self._call(lane.infer, data, deadline_s)
            answers = self._read(reply, request_id, len(rows), len(data))
        except CloudError as error:
            self.breaker.failed(error)
            raise
        finally:
            self._lanes.leave(lane)
        self.breaker.succeeded()
        return answers

    def check(self, *, deadline_s: float | None = None) -> bool:
        """Ask the server whether the model is ready.

        Raises:
            CloudError: As `infer`.
        """
        return self._is_ready(self._lanes.channel, deadline_s)

    def close(self) -> None:
        """Close the connection; calls in flight end in `CloudUnavailableError`."""
        self.breaker.close()
        self._lanes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _probe(self) -> bool:
        """Connect anew and ask; where the server is there, calls go that way from now on."""
        channel = self._link.connect()
        try:
            is_back = self._is_ready(channel, _PROBE_S, wait_for_ready=True)
        except CloudError as error:
            is_back = not isinstance(error, _GONE)
        if is_back and self._lanes.replace(channel):
            return True
        channel.close()
        return False

    def _is_ready(
        self, channel: grpc.Channel, limit_s: float | None, *, wait_for_ready: bool = False
    ) -> bool:
        method = channel.unary_unary(pb.METHODS["ModelReady"], None, None)
        data = pb.ModelReadyRequest(name=self.model).SerializeToString()
        reply = self._call(method, data, limit_s, wait_for_ready=wait_for_ready)
        try:
            return bool(tensors.parse(pb.ModelReadyResponse, reply).ready)
        except tensors.WireError as error:
            raise CloudProtocolError(f"{self.address}: {one_line(error)}") from None

    def _read(self, reply: bytes, request_id: str, rows: int, sent_bytes: int) -> CloudAnswers:
        try:
            response = tensors.parse(pb.ModelInferResponse, reply)
            self._check_echo(response, request_id)
            read = self._reader.read_raw(response, rows)
            if read is None:
                outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
                read = self._reader.read(outputs, rows)
            names, confidence = read
        except (tensors.WireError, CloudProtocolError) as error:
            raise CloudProtocolError(f"{self.address}: {one_line(error)}") from None
        prediction = self._reader.numbers(names)
        return CloudAnswers(prediction, names, confidence, sent_bytes, _compute_s(response))

    def _request(
        self, request_id: str, rows: tensors.Array, confidences: Any, threshold: float | None
    ) -> bytes:
        datatype, contents = _encode(rows)
        header = pb.ModelInferRequest(model_name=self.model, id=request_id)
        if confidences is not None:
            # The shortest text that reads back as the same float32.
            text = ",".join(map(str, np.asarray(confidences, np.float32)))
            header.parameters[contract.PARAMETER_CONFIDENCE].string_param = text
            header.parameters[contract.PARAMETER_CONTRACT].string_param = _CONTRACT
        if threshold is not None:
            text = str(np.float32(threshold))
            header.parameters[contract.PARAMETER_THRESHOLD].string_param = text
        header.inputs.add(name=self._input, datatype=datatype, shape=rows.shape)
        return tensors.append_raw(header, [contents])

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes],
        data: bytes,
        limit_s: float | None,
        *,
        wait_for_ready: bool | None = None,
    ) -> bytes:
        timeout_s = self.deadline_s if limit_s is None else _check_deadline(limit_s)
        try:
            reply: bytes | None = method(
                data,
                timeout=timeout_s,
                wait_for_ready=wait_for_ready,
                metadata=self._link.metadata(),
            )
        except grpc.RpcError as error:
            raise self._link.translate(error, timeout_s) from None
        except ValueError:
            # How gRPC says that the channel is closed.
            raise CloudUnavailableError(
                f"{self.address}: this CloudModel is closed: open another"
            ) from None
        if reply is None:  # the status was OK, and there was no message before it
            raise CloudProtocolError(f"{self.address}: expected a message, got none")
        return reply

    def _check_echo(self, response: pb.ModelInferResponse, request_id: str) -> None:
        for what, sent, came in (
            ("id", request_id, response.id),
            ("model_name", self.model, response.model_name),
        ):
            if sent != came:
                raise CloudProtocolError(
                    f"expected the answer's {what} {sent!r}, got {came[:80]!r}"
                )


def _reader(
    labels: Sequence[str] | None,
    output: str | None,
    reduce: Literal["argmax"] | None,
    foreign_labels: Sequence[str] | None,
) -> AnswerReader | TextReader:
    if labels is not None:
        return AnswerReader.of(labels, output=output, reduce=reduce, foreign_labels=foreign_labels)
    if reduce is not None or foreign_labels is not None:
        raise SettingError(
            "expected no cloud_reduce and no cloud_labels where M_L generates text, got one"
        )
    return TextReader(output)


def _encode(rows: tensors.Array) -> tuple[str, bytes | memoryview]:
    """Return a batch's datatype on the wire, and its raw contents."""
    if rows.dtype in _NUMERIC and rows.size:
        return tensors.datatype_of(rows), tensors.encode_array(rows)
    if rows.dtype == object and rows.size and all(isinstance(r, str | bytes) for r in rows.flat):
        return tensors.BYTES, tensors.encode_bytes(rows)
    raise InputError(
        "expected images as uint8 [n, h, w, 3], float32 or texts with n >= 1, got "
        f"{rows.dtype} {list(rows.shape)}"
    )


def _compute_s(response: pb.ModelInferResponse) -> float:
    """Return how long the server says it worked; an engine that does not say has no such time."""
    if contract.PARAMETER_COMPUTE_US not in response.parameters:
        return 0.0
    return max(0, response.parameters[contract.PARAMETER_COMPUTE_US].int64_param) / 1e6


def _check_deadline(deadline_s: float) -> float:
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise SettingError(f"expected deadline_s as seconds over 0, got {deadline_s!r}")
    return deadline_s
