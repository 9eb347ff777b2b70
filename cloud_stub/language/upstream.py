"""An OpenAI-compatible server behind this one: it generates, and puts requests into batches.

The client of POST /v1/completions uses the standard library: all it needs is one POST with an
answer that is read line by line and can be ended from another thread at any time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from time import monotonic
from typing import Any, Final, NoReturn
from urllib.parse import SplitResult

import numpy as np

from cloud_stub.backends.backend import Batch, Outputs, Part
from cloud_stub.errors import (
    BadRequestError,
    CallError,
    ExpiredError,
    ModelFailureError,
    OverloadError,
    RefusedRowsError,
    UnavailableError,
)
from cloud_stub.language.answers import MAX_TOKENS, Answers, generation_signature
from cloud_stub.model_settings import KEY_VARIABLE, ModelSettings
from edge_runtime import contract, metrics
from edge_runtime.cloud.redaction import foreign
from edge_runtime.cloud.security import Security, Token
from edge_runtime.errors import SettingError

_LOGARITHMS: Final = (contract.MEAN_LOGPROB, contract.SUM_LOGPROB)
_CHECK_EVERY_S: Final = 0.05
_MOST_LINE_BYTES: Final = 1 << 20
_MOST_ERROR_BYTES: Final = 1 << 14
_SHOWN: Final = 200
_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
_OK: Final = 200
_TOO_MANY: Final = 429
_ERRORS: Final[Mapping[int, type[CallError]]] = {
    400: BadRequestError,
    413: BadRequestError,
    422: BadRequestError,
    408: ExpiredError,
    504: ExpiredError,
    502: UnavailableError,
    503: UnavailableError,
}
"""By HTTP status; any other status is a failure of the set-up, here or there."""
_LOST: Final = (ConnectionError, IncompleteRead)
_DONE: Final = b"[DONE]"


class UpstreamBackend:
    """Forwards texts; each call becomes one request, and the upstream does the batching.

    Args:
        settings: Server, model and limits.

    Raises:
        SettingError: A file of certificates, or the key, cannot be used.
    """

    workers = 32  # the calls wait for the network and compute nothing
    labels: tuple[str, ...] = ()

    def __init__(self, settings: ModelSettings) -> None:
        url, security = settings.upstream_url(), link_security(settings)
        security.warn_of_exposed_files()
        context = None
        if url.scheme == "https":
            context = security.ssl_context()
            context.set_alpn_protocols(["http/1.1"])
        self._kind, self._model = settings.confidence_kind, settings.upstream_model
        self._completions = _Completions(
            url, context=context, token=security.token(), silence_s=settings.upstream_timeout_s
        )
        self.signature = generation_signature(
            "gatekeeper_upstream", settings.most_new_tokens, is_batched=False
        )

    def infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        """Have the upstream answer texts."""
        texts: Any = list(batch.inputs[contract.TEXT])
        empty = {row: "the prompt is empty" for row, text in enumerate(texts) if not text.strip()}
        if empty:
            raise RefusedRowsError(empty)
        body = {
            "model": self._model,
            "prompt": texts[0] if len(texts) == 1 else texts,
            "max_tokens": int(np.asarray(batch.inputs[MAX_TOKENS])[0]),
            "temperature": 0,
            "logprobs": 1,
            "stream": True,
        }
        completions, answers = [_Completion() for _ in texts], Answers(batch.rows)
        heartbeat = Part(answers.outputs())
        for event in self._completions.events(body, batch.timeout_s, lambda: batch.is_wanted(0)):
            for row in _put(completions, event):
                one = completions[row]
                answers.put(row, one.text, one.confidence(self._kind), is_whole=one.is_whole)
            yield Part(answers.outputs()) if batch.is_streamed else heartbeat
        # Not every server gives a reason for the end of an answer; [DONE] ends them all.
        if not all(one.is_begun for one in completions):
            raise ModelFailureError("the upstream failed: it ended before all answers did")
        for row, one in enumerate(completions):
            answers.put(row, one.text, one.confidence(self._kind), is_whole=True)
        yield answers.outputs()

    def close(self) -> None:
        """Do nothing: every call closes its own connection."""


def link_security(settings: ModelSettings) -> Security:
    """Return the trusted authorities and the key for --upstream.

    Raises:
        SettingError: The key would be sent in plaintext.
    """
    has_variable = settings.upstream_key_file is None and KEY_VARIABLE in os.environ
    has_key = has_variable or settings.upstream_key_file is not None
    if has_key and settings.upstream_plaintext:
        raise SettingError(
            f"expected https for the key of --upstream, got {settings.upstream_url().hostname} in "
            "plaintext: anyone on the way could read the key"
        )
    return Security(
        ca=settings.upstream_ca,
        token_file=settings.upstream_key_file,
        token_env=KEY_VARIABLE if has_variable else None,
    )


class _Completion:
    """One answer so far."""

    def __init__(self) -> None:
        self.text = ""
        self.is_begun = self.is_whole = False
        self._logprob: list[float] = []

    def put(self, choice: Any) -> None:
        """Add one choice of an event.

        Raises:
            KeyError, TypeError, ValueError: The choice is malformed.
        """
        # Servers send null for what a chunk, usually the last one, does not have.
        text = "" if choice["text"] is None else choice["text"]
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs")
        if not isinstance(text, str):
            raise TypeError
        if text and logprobs is None:
            raise KeyError("logprobs")
        values = [float(value) for value in logprobs or ()]
        if not all(map(math.isfinite, values)):  # JSON's 1e999 is infinite
            raise ValueError(values)
        self.text += text
        self._logprob += values
        self.is_begun = True
        self.is_whole |= bool(choice.get("finish_reason"))

    def confidence(self, kind: str) -> float:
        """Return the confidence; the lowest possible one for an answer without tokens."""
        if not self._logprob:
            return float(np.finfo(np.float32).min) if kind in _LOGARITHMS else 0.0
        confidence = metrics.sequence_confidence(
            kind,
            neg_entropy=np.zeros(len(self._logprob)),
            logprob=self._logprob,
            counted=np.ones(len(self._logprob), bool),
        )
        return float(confidence)


def _put(completions: list[_Completion], event: Any) -> Iterator[int]:
    """Add the choices of an event, and yield their rows."""
    by_index = dict(enumerate(completions))  # a list would take a negative index as well
    try:
        if event.get("error") is not None:
            raise ModelFailureError(f"the upstream failed: {foreign(event['error'], _SHOWN)}")
        for choice in event["choices"] or ():
            index = choice.get("index") or 0
            by_index[index].put(choice)
            yield index
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelFailureError(
            "the upstream failed: expected choices with index, text and logprobs.token_logprobs "
            f"in an event, got {foreign(event, _SHOWN)}"
        ) from None


class _Completions:
    """A client of the completions interface; each call uses a connection of its own.

    Args:
        url: URL of the server, up to and including `/v1`.
        context: Context that checks its certificate; None for plaintext.
        token: Its key, if it needs one.
        silence_s: Longest silence before a call fails.
    """

    def __init__(
        self,
        url: SplitResult,
        *,
        context: ssl.SSLContext | None,
        token: Token | None,
        silence_s: float,
    ) -> None:
        self._host, self._port = url.hostname or "", url.port
        self._path = f"{url.path.rstrip('/')}/completions"
        self._context, self._token, self._silence_s = context, token, silence_s

    def events(
        self, body: Mapping[str, Any], timeout_s: float, is_wanted: Callable[[], bool]
    ) -> Iterator[Any]:
        """Send a request, and yield the events of its answer; the connection ends with it.

        Args:
            body: The request; it asks for a stream.
            timeout_s: Longest time until the answer is complete.
            is_wanted: Function that returns whether anyone is still waiting.

        Raises:
            CallError: The server is down, slow, refuses, or sends something else than JSON events.
        """
        deadline = monotonic() + timeout_s
        silence_s = max(min(self._silence_s, timeout_s), _CHECK_EVERY_S)
        connection = HTTPConnection(self._host, self._port, timeout=silence_s)
        if self._context is not None:
            connection = HTTPSConnection(
                self._host, self._port, timeout=silence_s, context=self._context
            )
        is_over: Callable[[], bool] = lambda: monotonic() >= deadline or not is_wanted()  # noqa: E731
        try:
            with contextlib.closing(connection):
                connection.connect()
                with _shut_down_when(is_over, connection.sock):
                    response = self._request(connection, body)
                    with contextlib.closing(response):
                        yield from _events(response)
        except CallError:  # one of them is a TimeoutError, which is an OSError
            raise
        except (OSError, HTTPException) as error:
            if monotonic() >= deadline:
                raise ExpiredError("the upstream did not answer in time") from None
            raise _call_error(error, self._silence_s) from None

    def _request(self, connection: HTTPConnection, body: Mapping[str, Any]) -> HTTPResponse:
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if self._token is not None:
            headers.update(self._token.metadata())
        connection.request("POST", self._path, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        if response.status != _OK:
            with contextlib.closing(response):
                self._refuse(response)
        kind = response.headers.get_content_type()
        if kind != "text/event-stream":
            response.close()
            raise ModelFailureError(
                f"the upstream failed: expected a stream of events, got {foreign(kind, _SHOWN)}"
            )
        return response

    def _refuse(self, response: HTTPResponse) -> NoReturn:
        reason = _message(response.read(_MOST_ERROR_BYTES)).strip() or response.reason
        text = f"the upstream answered {response.status}: {foreign(reason, _SHOWN)}"
        if response.status == _TOO_MANY:
            raise OverloadError(text, pushback_s=_retry_s(response))
        raise _ERRORS.get(response.status, ModelFailureError)(text)


@contextlib.contextmanager
def _shut_down_when(is_over: Callable[[], bool], sock: socket.socket) -> Iterator[None]:
    """Shut a connection down as soon as a condition holds: its reader then sees its end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_CHECK_EVERY_S):
            if is_over():
                with contextlib.suppress(OSError):
                    # Not the shutdown of TLS, which two threads must not share.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                return

    watcher = threading.Thread(target=watch, name="upstream-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _events(response: HTTPResponse) -> Iterator[Any]:
    while line := response.readline(_MOST_LINE_BYTES + 1):
        if len(line) > _MOST_LINE_BYTES:
            raise ModelFailureError(f"the upstream failed: a line of over {_MOST_LINE_BYTES} bytes")
        name, _, content = line.strip().partition(b":")
        if name != b"data":
            continue  # a comment that keeps the connection alive, or a field without use here
        if content.strip() == _DONE:
            return
        try:
            yield json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise ModelFailureError("the upstream failed: expected events of JSON") from None
    raise ConnectionResetError("it ended before the answer did")


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which JSON does not have."""
    raise ValueError(name)


def _call_error(error: Exception, silence_s: float) -> CallError:
    if isinstance(error, TimeoutError):
        return ExpiredError(f"the upstream sent nothing for {silence_s:g} s")
    if isinstance(error, HTTPException) and not isinstance(error, _LOST):
        return ModelFailureError(f"the upstream failed: expected HTTP, got {type(error).__name__}")
    return UnavailableError(f"the upstream cannot be reached: {foreign(error, _SHOWN)}")


def _message(body: bytes) -> str:
    """Return the message in an error's body, whichever of the usual forms it has."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")
    if isinstance(content, dict):
        error = content.get("error", content)
        message = error.get("message") if isinstance(error, dict) else error
        if isinstance(message, str):
            return message
    return body.decode(errors="replace")


def _retry_s(response: HTTPResponse) -> float:
    text = response.headers.get("retry-after", "")
    is_number = text.isascii() and text.isdigit()
    return min(float(text), _LONGEST_RETRY_S) if is_number else _RETRY_S
