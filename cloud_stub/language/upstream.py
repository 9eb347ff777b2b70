"""An OpenAI-compatible server behind the front: it serves the model, batches and all."""

from __future__ import annotations

import contextlib
import json
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

# MERGEDOC cloud_stub/backends/completions.py: "A client of POST /v1/completions, the interface of OpenAI's that vLLM and others serve as well.\n\nOver the standard library: what is needed is one POST whose answer is read line by line, and that\ncan be ended from another thread at any time.\n"
from cloud_stub.language.checkpoint import MAX_TOKENS, Answers, generation_signature
from cloud_stub.settings import ModelSettings
from edge_runtime import contract, metrics
from edge_runtime.cloud.security import Token

_WORKERS: Final = 32
_LOGARITHMS: Final = (contract.MEAN_LOGPROB, contract.SUM_LOGPROB)

_LOOK_S: Final = 0.05
_MOST_LINE: Final = 1 << 20
_MOST_WORDS: Final = 1 << 14
_SHOWN: Final = 200
_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
_OK: Final = 200
_TOO_MANY: Final = 429
_KINDS: Final[Mapping[int, type[CallError]]] = {
    400: BadRequestError,
    413: BadRequestError,
    422: BadRequestError,
    408: ExpiredError,
    504: ExpiredError,
    502: UnavailableError,
    503: UnavailableError,
}
"""By HTTP status; all others are failures of what was set up here or there."""
_LOST: Final = (ConnectionError, IncompleteRead)
_DONE: Final = b"[DONE]"


class UpstreamBackend:
    """Passes texts on; every call is a request of its own, which the upstream puts into batches.

    Args:
        settings: Which server, which model, and how much of it.

    Raises:
        SettingError: A file of certificates or the key cannot be used.
    """

    # The calls wait for the network and compute nothing.
    workers = _WORKERS
    labels: tuple[str, ...] = ()

    def __init__(self, settings: ModelSettings) -> None:
        url, security = settings.upstream_url(), settings.upstream_security()
        security.warn_of_exposed_files()
        context = None
        if url.scheme == "https":
            context = security.ssl_context()
            context.set_alpn_protocols(["http/1.1"])
        self._kind, self._model = settings.confidence_kind, settings.upstream_model
        self._completions = Completions(
            url,
            context=context,
            token=security.token(),
            silence_s=settings.upstream_timeout,
        )
        self.signature = generation_signature(
            "gatekeeper_upstream", settings.max_new_tokens, is_batched=False
        )

    def infer(self, batch: Batch) -> Iterator[Outputs | Part]:
        """Answer texts; see `Backend.infer`."""
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
        said, answers = [_Said() for _ in texts], Answers(batch.rows)
        nothing = Part(answers.outputs())
        for event in self._completions.events(body, batch.timeout_s, lambda: batch.is_wanted(0)):
            for row in _put(said, event):
                one = said[row]
                answers.put(row, one.text, one.confidence(self._kind), is_whole=one.is_whole)
            yield Part(answers.outputs()) if batch.is_streamed else nothing
        if not all(one.is_whole for one in said):
            raise ModelFailureError("the upstream failed: it ended before all answers did")
        yield answers.outputs()

    def close(self) -> None:
        """Every call closes its own connection."""


class _Said:
    """One answer as far as it is known."""

    def __init__(self) -> None:
        self.text = ""
        self.is_whole = False
        self._logprob: list[float] = []

    def put(self, choice: Any) -> None:
        """Add what an event says of it.

        Raises:
            KeyError, TypeError, ValueError: That is malformed.
        """
        text, logprobs = choice["text"], choice.get("logprobs")
        if not isinstance(text, str):
            raise TypeError
        self.text += text
        if logprobs is not None:
            self._logprob += [float(value) for value in logprobs["token_logprobs"]]
        elif text:
            raise KeyError("logprobs")
        self.is_whole = choice.get("finish_reason") is not None

    def confidence(self, kind: str) -> float:
        """Return the confidence; of an answer without a token the lowest there is."""
        if not self._logprob:
            return float(np.finfo(np.float32).min) if kind in _LOGARITHMS else 0.0
        found = metrics.sequence_confidence(
            kind,
            neg_entropy=np.zeros(len(self._logprob)),
            logprob=self._logprob,
            counted=np.ones(len(self._logprob), bool),
        )
        return float(found)


def _put(said: list[_Said], event: Any) -> Iterator[int]:
    """Add what an event says, and yield of which rows."""
    by_index = dict(enumerate(said))  # a list would take a negative index as well
    try:
        if "error" in event:
            raise ModelFailureError(f"the upstream failed: {str(event['error'])[:200]}")
        for choice in event["choices"]:
            index = choice.get("index", 0)
            by_index[index].put(choice)
            yield index
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelFailureError(
            "the upstream failed: expected choices with index, text and logprobs.token_logprobs "
            f"in an event, got {str(event)[:200]}"
        ) from None


class Completions:
    """Asks for completions, each call over a connection of its own.

    Args:
        url: Of the server, up to and with `/v1`.
        context: What its certificate is held against; None for plaintext.
        token: Its key, where it wants one.
        silence_s: How long it may say nothing.
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
        """Ask, and yield what the server sends, piece by piece; the connection ends with that.

        Args:
            body: What is asked; it is to ask for a stream.
            timeout_s: How long the answer may take.
            is_wanted: Whether anybody still waits for it.

        Raises:
            CallError: The server is down, slow, refuses, or sends what is no event of JSON.
        """
        deadline = monotonic() + timeout_s
        connection = self._connection(max(min(self._silence_s, timeout_s), _LOOK_S))
        ended: Callable[[], bool] = lambda: monotonic() >= deadline or not is_wanted()  # noqa: E731
        try:
            with contextlib.closing(connection):
                connection.connect()
                with _ended_when(ended, connection.sock):
                    response = self._ask(connection, body)
                    with contextlib.closing(response):
                        yield from _events(response)
        except CallError:  # one of them is a TimeoutError, which is an OSError
            raise
        except (OSError, HTTPException) as error:
            if monotonic() >= deadline:
                raise ExpiredError("the upstream did not answer in time") from None
            _fail(error, self._silence_s)

    def _connection(self, timeout_s: float) -> HTTPConnection:
        if self._context is None:
            return HTTPConnection(self._host, self._port, timeout=timeout_s)
        return HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._context)

    def _ask(self, connection: HTTPConnection, body: Mapping[str, Any]) -> HTTPResponse:
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
                f"the upstream failed: expected a stream of events, got {kind[:_SHOWN]}"
            )
        return response

    def _refuse(self, response: HTTPResponse) -> NoReturn:
        words = _message(response.read(_MOST_WORDS))[:_SHOWN] or response.reason
        if self._token is not None:
            words = self._token.redact(words)
        told = f"the upstream answered {response.status}: {words}"
        if response.status == _TOO_MANY:
            raise OverloadError(told, pushback_s=_retry_s(response))
        raise _KINDS.get(response.status, ModelFailureError)(told)


@contextlib.contextmanager
def _ended_when(is_over: Callable[[], bool], sock: socket.socket) -> Iterator[None]:
    """End a connection as soon as something is so: whoever reads from it reads its end."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_S):
            if is_over():
                with contextlib.suppress(OSError):
                    # Not TLS's own, which is not for two threads.
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
    while line := response.readline(_MOST_LINE + 1):
        if len(line) > _MOST_LINE:
            raise ModelFailureError(f"the upstream failed: a line of over {_MOST_LINE} bytes")
        name, _, content = line.strip().partition(b":")
        if name != b"data":
            continue  # a comment to keep the connection, or a field without a meaning here
        if content.strip() == _DONE:
            return
        try:
            yield json.loads(content, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise ModelFailureError("the upstream failed: expected events of JSON") from None
    raise ConnectionResetError("it ended before the answer did")


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _fail(error: Exception, silence_s: float) -> NoReturn:
    if isinstance(error, TimeoutError):
        raise ExpiredError(f"the upstream said nothing for {silence_s:g} s") from None
    if isinstance(error, HTTPException) and not isinstance(error, _LOST):
        raise ModelFailureError(
            f"the upstream failed: expected HTTP, got {type(error).__name__}"
        ) from None
    raise UnavailableError(f"the upstream cannot be reached: {error}") from None


def _message(body: bytes) -> str:
    """Return what an error's body says, in whichever of the usual forms."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")
    if isinstance(found, dict):
        error = found.get("error", found)
        words = error.get("message") if isinstance(error, dict) else error
        if isinstance(words, str):
            return words
    return body.decode(errors="replace")


def _retry_s(response: HTTPResponse) -> float:
    text = response.headers.get("retry-after", "")
    is_number = text.isascii() and text.isdigit()
    return min(float(text), _LONGEST_RETRY_S) if is_number else _RETRY_S
