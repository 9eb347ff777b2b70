"""Bearer tokens: which are accepted, and what a caller without one is told."""

from __future__ import annotations

import hmac
import logging
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from edge_runtime.cloud.security import TOKEN_FORM
from edge_runtime.errors import SettingError
from edge_runtime.files import file_state

SHORTEST: Final = 16
"""Characters of the shortest token: shorter ones can be guessed, or are half a write."""
HEALTH: Final = "/grpc.health.v1.Health/"
"""Calls that need no token: orchestrators have none to send, and learn only whether it serves."""
_LOG: Final = logging.getLogger(__name__)


class Tokens:
    """The tokens of a file, one a line, read again when it changes; no `repr` or error holds one.

    Several are valid at once, so that one can be replaced: add the new one, hand it out, remove the
    old one. Blank lines and lines that begin with # are passed over.

    A file that goes missing or becomes wrong while the server runs leaves the last tokens valid:
    refusing everybody would turn a slip of the pen into an outage, and letting everybody in would
    be worse. An error in the log says so.

    Args:
        file: Where they stand.

    Raises:
        SettingError: There is none, or a line holds something else.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._state = file_state(file)
        self._tokens = _read(file)

    def accept(self, sent: bytes) -> bool:
        """Tell whether this is one of the tokens, in a time that does not depend on which."""
        self._refresh()
        found = False
        for token in self._tokens:  # all of them, always
            found |= hmac.compare_digest(token, sent)
        return found

    def _refresh(self) -> None:
        state = file_state(self._file)
        if state == self._state:
            return
        # Noted even where reading fails: one error a change, not one a call.
        self._state = state
        try:
            self._tokens = _read(self._file)
        except SettingError as error:
            _LOG.error("tokens stay as they were", extra={"reason": str(error)})
        else:
            _LOG.info("tokens read again", extra={"tokens": len(self._tokens)})

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"Tokens({str(self._file)!r}, {len(self)} of them)"


class TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses every call without an accepted token as UNAUTHENTICATED, health calls aside.

    Args:
        tokens: What is accepted.

    Attributes:
        refused: Calls refused so far.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.refused = 0
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Let a call pass, or answer it with the refusal; called by gRPC."""
        details: Any = handler_call_details
        if details.method.startswith(HEALTH):
            return await continuation(handler_call_details)
        sent = [value for name, value in details.invocation_metadata if name == "authorization"]
        reason = self._reason(sent)
        if reason is None:
            return await continuation(handler_call_details)
        self.refused += 1
        # As a stream, whatever the call is: its message is then never received.
        return grpc.stream_stream_rpc_method_handler(_refusal(reason))

    def _reason(self, sent: list[str | bytes]) -> str | None:
        """Return why a call is refused, in words that do not repeat what came."""
        advice = "send one 'authorization: Bearer TOKEN' as metadata"
        if len(sent) != 1:
            return f"expected a bearer token, got {'several' if sent else 'none'}: {advice}"
        value = sent[0] if isinstance(sent[0], bytes) else sent[0].encode()
        scheme, _, token = value.partition(b" ")
        if scheme.lower() != b"bearer":
            return f"expected a bearer token, got another scheme: {advice}"
        if not self._tokens.accept(token):
            return "the bearer token is not accepted here: check it, it may have been replaced"
        return None


def _refusal(reason: str) -> Callable[[Any, Any], Awaitable[None]]:
    async def refuse(_: Any, context: Any) -> None:
        _LOG.warning("call without an accepted token", extra={"peer": context.peer()})
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)

    return refuse


def _read(file: Path) -> tuple[bytes, ...]:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise SettingError(
                f"expected a file of bearer tokens, {file} is none that can be read twice: write "
                "them to an ordinary file"
            )
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise SettingError(
            f"expected a readable file of bearer tokens, got {error.strerror or error} at {file}: "
            "check path and permissions"
        ) from None
    found: dict[bytes, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            _check(text, f"line {number} of {file}")
            found[text] = None  # in the file's order, each once
    if not found:
        raise SettingError(
            f"expected bearer tokens in {file}, one a line, got none: with no token nobody could "
            "call; write one there, or leave --token-file out"
        )
    return tuple(found)


def _check(line: bytes, place: str) -> None:
    text = line.decode("ascii", "replace")
    if not TOKEN_FORM.fullmatch(text):
        raise SettingError(
            f"expected a bearer token on {place} (letters, digits, -._~+/ and = at its end), got "
            "something else: write one token a line, and nothing but it"
        )
    if len(text) < SHORTEST:
        raise SettingError(
            f"expected {SHORTEST} characters or more on {place}, got {len(text)}: make one that "
            "cannot be guessed, as `openssl rand -base64 32` does"
        )
