"""The client of a large model M_L on a server of the Open Inference Protocol.

    cloud = CloudModel.open("localhost:8001", labels=("cat", "dog"))
    answers = cloud.infer(images)  # uint8 [n, h, w, 3], or an object array [n] of texts

Every call has a deadline and ends with an answer or a `CloudError`. gRPC itself retries a call to
an unavailable server within its deadline. A server that stays down gets no further calls until a
background probe reaches it (`breaker`).
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal

import grpc
import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.cloud.base import CloudAnswers
from edge_runtime.cloud.breaker import BreakerSettings, CircuitBreaker
from edge_runtime.cloud.connection import Connections, Link
from edge_runtime.cloud.redaction import foreign
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
from edge_runtime.wire.answers import AnswerReader, TextAnswerReader

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_DEADLINE_S: Final = 0.5
DEFAULT_PROBE_S: Final = 1.0
_PROBE_S: Final = 1.0
"""Time limit of one probe. Each connects anew, so a connection that hangs does no harm."""
_NUMERIC: Final = {np.dtype(np.uint8), np.dtype(np.float32)}
_CONTRACT: Final = str(contract.CONTRACT_VERSION)
# A server that refuses a probe with any other error is up; the next call shows what it can do.
_DOWN: Final = (CloudUnavailableError, CloudMisconfiguredError, CloudOverloadedError, TimeoutError)


class CloudModel:
    """A large model on a server; safe to share between threads, not across `fork()`.

    Use `open` to create one. As a context manager it closes itself.
    """

    def __init__(
        self,
        link: Link,
        *,
        model: str,
        reader: AnswerReader | TextAnswerReader,
        cloud_input: str,
        deadline_s: float,
        breaker: BreakerSettings,
    ) -> None:
        self.address = link.address
        self.model = model
        self.deadline_s = deadline_s
        self.breaker = CircuitBreaker(self._probe, breaker)
        self._reader = reader
        # A foreign engine takes its model's own input and does not decode files.
        self.takes_files = reader.output is None
        self._input = cloud_input
        self._link = link
        self._connections = Connections(link.connect())
        # The prefix distinguishes devices in a server's log.
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
        use_proxy: bool = False,
        security: Security | None = None,
        probe_s: float | None = DEFAULT_PROBE_S,
        cloud_input: str = contract.IMAGE,
        cloud_output: str | None = None,
        cloud_reduce: Literal["argmax"] | None = None,
        cloud_labels: Sequence[str] | None = None,
        breaker: BreakerSettings | None = None,
    ) -> Self:
        """Prepare calls to a server, which need not be up yet.

        If it is up, it is asked once whether the model is ready, without an input.

        Args:
            address: `HOST:PORT`.
            model: The model's name on the server.
            labels: The edge model's class names; answers are mapped to them by name. None if M_L
                generates text.
            deadline_s: Time limit of a call including its retries, over 0.
            allow_plaintext: Whether inputs may travel unencrypted to another machine.
            use_proxy: Whether to connect through the proxy that `grpc_proxy`, `https_proxy` or
                `http_proxy` names; without it they are ignored.
            security: TLS with certificates and token; plaintext if None.
            probe_s: Time limit of the check for mistakes in certificates, token and protection;
                None leaves them to the first call.
            cloud_input: Name of the input tensor.
            cloud_output: Output of a foreign engine that holds the answer: class names, class
                indices, or scores to reduce. Its other outputs are ignored.
            cloud_reduce: `argmax` if `cloud_output` holds scores [n, classes].
            cloud_labels: Class names in the foreign engine's order; `labels` by default.
            breaker: Settings of the circuit breaker.

        Raises:
            SettingError: A setting is invalid, the label sets differ, a file of `security` is
                missing or malformed, or the address is another machine's and plaintext was not
                allowed.
            CloudMisconfiguredError: The server is up, but certificate, token or protection is
                wrong. A server that is down is no error.
        """
        link = Link(address, security, allow_plaintext=allow_plaintext, use_proxy=use_proxy)
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
        """Send a batch to M_L and return its answers.

        Args:
            rows: Pictures uint8 [n, h, w, 3], encoded pictures as an object array [n] of bytes,
                texts as an object array of str, or float32 for an engine that takes a model's own
                input.
            confidences: M_S's confidences [n], sent as `gatekeeper_confidence`.
            threshold: M_S's threshold, sent as `gatekeeper_threshold`.
            deadline_s: Time limit of this call; that of the model by default.
            request_id: Name of the request in the server's log; generated by default.

        Raises:
            CloudUnavailableError: Nothing answers at the address, or the breaker is open.
            CloudDeadlineError: No answer in time.
            CloudOverloadedError: The server is overloaded.
            CloudMisconfiguredError: Certificate, token or protection is wrong.
            CloudRejectedError: The server refused the request or failed.
            CloudProtocolError: The answer does not fit the request.
            InputError: The array is neither uint8, float32 nor texts, or has no rows.
            SettingError: The deadline is not over 0.
        """
        request_id = request_id or f"{self._id_prefix}-{next(self._id_number)}"
        data = self._request(request_id, rows, confidences, threshold)
        self.breaker.check()
        connection = self._connections.acquire()
        start = perf_counter()
        try:
            reply = self._call(connection.infer, data, deadline_s)
            most_s = perf_counter() - start
            answers = self._read(reply, request_id, len(rows), len(data), most_s)
        except CloudError as error:
            self.breaker.record_failure(error)
            raise
        finally:
            self._connections.release(connection)
        self.breaker.record_success()
        return answers

    def check(self, *, deadline_s: float | None = None) -> bool:
        """Return whether the server reports the model as ready; raise errors as `infer` does."""
        return self._is_ready(self._connections.channel, deadline_s)

    def close(self) -> None:
        """Close the connection; calls in flight end in `CloudUnavailableError`."""
        self.breaker.close()
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _probe(self) -> bool:
        """Check the server over a new connection, and use that for calls if the server is up."""
        channel = self._link.connect()
        try:
            is_back = self._is_ready(channel, _PROBE_S, wait_for_ready=True)
        except CloudError as error:
            is_back = not isinstance(error, _DOWN)
        if is_back and self._connections.replace(channel):
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
            raise CloudProtocolError(f"{self.address}: {foreign(error)}") from None

    def _read(
        self, reply: bytes, request_id: str, rows: int, request_bytes: int, most_s: float
    ) -> CloudAnswers:
        try:
            self._check_size(reply, rows)
            response = tensors.parse(pb.ModelInferResponse, reply)
            self._check_echo(response, request_id)
            answers = self._reader.read_raw(response, rows)
            if answers is None:
                outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
                answers = self._reader.read(outputs, rows)
            names, confidence = answers
        except (tensors.WireError, CloudProtocolError) as error:
            raise CloudProtocolError(f"{self.address}: {foreign(error)}") from None
        prediction = self._reader.numbers(names)
        compute_s = min(_compute_s(response), most_s)  # the server may report anything
        return CloudAnswers(prediction, names, confidence, request_bytes, compute_s)

    def _request(
        self, request_id: str, rows: tensors.Array, confidences: Any, threshold: float | None
    ) -> bytes:
        datatype, contents = _encode(rows)
        header = pb.ModelInferRequest(model_name=self.model, id=request_id)
        if confidences is not None:
            # The shortest text that parses to the same float32.
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
            # gRPC's error for a closed channel.
            raise CloudUnavailableError(
                f"{self.address}: this CloudModel is closed: open another"
            ) from None
        if reply is None:  # the status was OK, but no message came
            raise CloudProtocolError(f"{self.address}: expected a message, got none")
        return reply

    def _check_size(self, reply: bytes, rows: int) -> None:
        most = self._reader.most_bytes(rows)
        if most is not None and len(reply) > most:
            raise CloudProtocolError(
                f"expected at most {most} bytes in the answer to {rows} rows, got {len(reply)}"
            )

    def _check_echo(self, response: pb.ModelInferResponse, request_id: str) -> None:
        for field, sent, echoed in (
            ("id", request_id, response.id),
            ("model_name", self.model, response.model_name),
        ):
            if sent != echoed:
                raise CloudProtocolError(
                    f"expected the answer's {field} {sent!r}, got {echoed[:80]!r}"
                )


def _reader(
    labels: Sequence[str] | None,
    output: str | None,
    reduce: Literal["argmax"] | None,
    foreign_labels: Sequence[str] | None,
) -> AnswerReader | TextAnswerReader:
    if labels is not None:
        return AnswerReader.of(labels, output=output, reduce=reduce, foreign_labels=foreign_labels)
    if reduce is not None or foreign_labels is not None:
        raise SettingError(
            "expected no cloud_reduce and no cloud_labels for an M_L that generates text, got one"
        )
    return TextAnswerReader(output)


def _encode(rows: tensors.Array) -> tuple[str, bytes | memoryview]:
    """Return a batch's datatype on the wire and its raw contents."""
    if rows.dtype in _NUMERIC and rows.size:
        return tensors.datatype_of(rows), tensors.encode_array(rows)
    if rows.dtype == object and rows.size and all(isinstance(r, str | bytes) for r in rows.flat):
        return tensors.BYTES, tensors.encode_bytes(rows)
    raise InputError(
        "expected images as uint8 [n, h, w, 3], float32 or texts with n >= 1, got "
        f"{rows.dtype} {list(rows.shape)}"
    )


def _compute_s(response: pb.ModelInferResponse) -> float:
    """Return the compute time that the server reports; 0 where it reports none."""
    if contract.PARAMETER_COMPUTE_US not in response.parameters:
        return 0.0
    return max(0, response.parameters[contract.PARAMETER_COMPUTE_US].int64_param) / 1e6


def _check_deadline(deadline_s: float) -> float:
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise SettingError(f"expected deadline_s as seconds over 0, got {deadline_s!r}")
    return deadline_s
