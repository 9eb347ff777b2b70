"""The large model M_L behind the Open Inference Protocol, as the edge device calls it.

    cloud = CloudModel.open("localhost:8001", labels=("cat", "dog"))
    answers = cloud.infer(images)  # uint8 [n, h, w, 3], or an object array [n] of texts

Every call has a deadline and ends in an answer or in a `CloudError`. Retries are gRPC's own: a call
that met an unavailable server is tried again within its deadline.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

import grpc
import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.errors import (
    CloudDeadlineError,
    CloudError,
    CloudProtocolError,
    CloudRejectedError,
    CloudUnavailableError,
    InputError,
    SettingError,
)
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors
from edge_runtime.wire.address import is_loopback, join_address, split_address
from edge_runtime.wire.answers import AnswerReader

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
DEFAULT_DEADLINE_S: Final = 0.5

_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                # No "timeout" here: one shorter than the call's own ends the call at once.
                "name": [{"service": pb.SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_OPTIONS: Final[tuple[tuple[str, str | int], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    # Requests over this size are silently not retried; the default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    # A server that comes back is noticed within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_ERRORS: Final[dict[grpc.StatusCode, tuple[type[CloudError], str]]] = {
    grpc.StatusCode.UNAVAILABLE: (CloudUnavailableError, "is the server running there?"),
    grpc.StatusCode.CANCELLED: (CloudUnavailableError, "the call was cut off"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (CloudDeadlineError, "raise deadline_s if this is common"),
    grpc.StatusCode.UNIMPLEMENTED: (
        CloudProtocolError,
        "expected a server of the Open Inference Protocol over gRPC",
    ),
}
_DETAILS_LENGTH: Final = 300


@dataclass(frozen=True, slots=True)
class CloudAnswers:
    """What M_L said about a batch.

    Attributes:
        prediction: int64 [n], index into the caller's labels.
        label: Class name of each row.
        confidence: float32 [n], M_L's own; NaN where a foreign engine gives none.
        sent_bytes: Size of the request message.
    """

    prediction: npt.NDArray[np.int64]
    label: list[str]
    confidence: npt.NDArray[np.float32]
    sent_bytes: int


class CloudModel:
    """A large model on a server; safe to share between threads, not across `fork()`.

    Made by `open`. Usable as a context manager, which closes it.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        address: str,
        model: str,
        reader: AnswerReader,
        cloud_input: str,
        deadline_s: float,
    ) -> None:
        self.address = address
        self.model = model
        self.deadline_s = deadline_s
        self._reader = reader
        self._input = cloud_input
        self._channel = channel
        # Without (de)serializers gRPC hands bytes through: they are built in one copy here.
        self._infer = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        self._ready = channel.unary_unary(pb.METHODS["ModelReady"], None, None)
        # The prefix tells apart devices in a server's log.
        self._id_prefix = secrets.token_hex(4)
        self._id_number = itertools.count()

    @classmethod
    def open(
        cls,
        address: str,
        model: str = contract.DEFAULT_MODEL,
        *,
        labels: Sequence[str],
        deadline_s: float = DEFAULT_DEADLINE_S,
        allow_plaintext: bool = False,
        cloud_input: str = contract.IMAGE,
        cloud_output: str | None = None,
        cloud_reduce: Literal["argmax"] | None = None,
        cloud_labels: Sequence[str] | None = None,
    ) -> Self:
        """Prepare calls to a server; it need not be up yet, and nothing is sent.

        Args:
            address: `HOST:PORT`.
            model: The model's name on the server.
            labels: The edge model's class names; answers are mapped to them by name.
            deadline_s: Limit of a call including its retries, over 0.
            allow_plaintext: Send inputs unencrypted to another machine.
            cloud_input: Name of the input tensor.
            cloud_output: For a foreign engine, the output that holds the answer: class names,
                class indices, or scores to reduce. Its other outputs are ignored.
            cloud_reduce: `argmax` when `cloud_output` holds scores [n, classes].
            cloud_labels: Class names in the foreign engine's order; `labels` when not given.

        Raises:
            SettingError: A setting makes no sense, the label sets differ, or the address is
                another machine's and plaintext was not allowed.
        """
        host, port = split_address(address)
        if not (allow_plaintext or is_loopback(host)):
            raise SettingError(
                f"{address} is another machine, and inputs would travel there unencrypted: tunnel "
                "the port to localhost, or pass allow_plaintext=True on a network you trust"
            )
        _check_deadline(deadline_s)
        reader = AnswerReader.of(
            labels, output=cloud_output, reduce=cloud_reduce, foreign_labels=cloud_labels
        )
        # An http_proxy meant for the web must not carry what stays on this machine.
        options = [*_OPTIONS, ("grpc.enable_http_proxy", int(not is_loopback(host)))]
        return cls(
            grpc.insecure_channel(join_address(host, port), options),
            address=address,
            model=model,
            reader=reader,
            cloud_input=cloud_input,
            deadline_s=deadline_s,
        )

    def infer(
        self,
        rows: npt.NDArray[Any],
        *,
        confidences: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
        threshold: float | None = None,
        deadline_s: float | None = None,
    ) -> CloudAnswers:
        """Ask M_L about a batch.

        Args:
            rows: Pictures uint8 [n, h, w, 3], texts as an object array [n] of str, or float32 for
                an engine that takes a model's own input.
            confidences: M_S's confidences [n], told to the server as `gatekeeper_confidence`.
            threshold: M_S's threshold, told as `gatekeeper_threshold`.
            deadline_s: Limit of this call instead of the model's own.

        Raises:
            CloudUnavailableError: Nothing answers at the address.
            CloudDeadlineError: No answer in time.
            CloudRejectedError: The server refused or failed.
            CloudProtocolError: The answer is not what was asked for.
            InputError: The array is neither uint8, float32 nor texts, or has no rows.
            SettingError: The deadline is not over 0.
        """
        request_id = f"{self._id_prefix}-{next(self._id_number)}"
        data = self._request(request_id, rows, confidences, threshold)
        reply = self._call(self._infer, data, deadline_s)
        try:
            response = tensors.parse(pb.ModelInferResponse, reply)
            self._check_echo(response, request_id)
            outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
            names, confidence = self._reader.read(outputs, len(rows))
        except (tensors.WireError, CloudProtocolError) as error:
            raise CloudProtocolError(f"{self.address}: {_one_line(error)}") from None
        index = self._reader.index
        prediction = np.fromiter((index[name] for name in names), np.int64, len(names))
        return CloudAnswers(prediction, names, confidence, len(data))

    def check(self, *, deadline_s: float | None = None) -> bool:
        """Ask the server whether the model is ready.

        Raises:
            CloudError: As `infer`.
        """
        data = pb.ModelReadyRequest(name=self.model).SerializeToString()
        reply = self._call(self._ready, data, deadline_s)
        try:
            return bool(tensors.parse(pb.ModelReadyResponse, reply).ready)
        except tensors.WireError as error:
            raise CloudProtocolError(f"{self.address}: {_one_line(error)}") from None

    def close(self) -> None:
        """Close the connection; calls in flight end in `CloudUnavailableError`."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _request(
        self, request_id: str, rows: tensors.Array, confidences: Any, threshold: float | None
    ) -> bytes:
        datatype, contents = _encode(rows)
        header = pb.ModelInferRequest(model_name=self.model, id=request_id)
        if confidences is not None:
            # The shortest text that reads back as the same float32.
            text = ",".join(map(str, np.asarray(confidences, np.float32)))
            header.parameters[contract.PARAMETER_CONFIDENCE].string_param = text
        if threshold is not None:
            text = str(np.float32(threshold))
            header.parameters[contract.PARAMETER_THRESHOLD].string_param = text
        header.inputs.add(name=self._input, datatype=datatype, shape=rows.shape)
        return tensors.append_raw(header, [contents])

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[bytes, bytes], data: bytes, limit_s: float | None
    ) -> bytes:
        timeout_s = self.deadline_s if limit_s is None else _check_deadline(limit_s)
        try:
            return method(data, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._translate(error, timeout_s) from None
        except ValueError:
            # How gRPC says that the channel is closed.
            raise CloudUnavailableError(
                f"{self.address}: this CloudModel is closed: open another"
            ) from None

    def _translate(self, error: Any, timeout_s: float) -> CloudError:
        code = error.code()
        kind, advice = _ERRORS.get(code, (CloudRejectedError, "see the server's log"))
        details = _one_line(error.details() or "no details")[:_DETAILS_LENGTH]
        if kind is CloudDeadlineError:
            return kind(f"{self.address}: no answer within {timeout_s:g} s: {advice}")
        return kind(f"{self.address}: {code.name}: {details}: {advice}")

    def _check_echo(self, response: pb.ModelInferResponse, request_id: str) -> None:
        for what, sent, came in (
            ("id", request_id, response.id),
            ("model_name", self.model, response.model_name),
        ):
            if sent != came:
                raise CloudProtocolError(
                    f"expected the answer's {what} {sent!r}, got {came[:80]!r}"
                )


def _encode(rows: tensors.Array) -> tuple[str, bytes | memoryview]:
    """Return a batch's datatype on the wire, and its raw contents."""
    if rows.dtype == object and rows.size and all(isinstance(row, str) for row in rows.flat):
        return tensors.BYTES, tensors.encode_bytes(rows)
    if rows.dtype not in {np.dtype(np.uint8), np.dtype(np.float32)} or not rows.size:
        raise InputError(
            "expected images as uint8 [n, h, w, 3], float32 or texts with n >= 1, got "
            f"{rows.dtype} {list(rows.shape)}"
        )
    return tensors.datatype_of(rows), tensors.encode_array(rows)


def _check_deadline(deadline_s: float) -> float:
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise SettingError(f"expected deadline_s as seconds over 0, got {deadline_s!r}")
    return deadline_s


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
