"""A client of POST /v1/completions, the interface of OpenAI's that vLLM and others serve as well.

Over the standard library: what is needed is one POST whose answer is read line by line, and that
can be ended from another thread at any time.
"""

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

from cloud_stub.errors import (
    BadRequestError,
    CallError,
    ExpiredError,
    ModelFailureError,
    OverloadError,
    UnavailableError,
)
from edge_runtime.cloud.token import Token

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
            words = self._token.hide_in(words)
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
