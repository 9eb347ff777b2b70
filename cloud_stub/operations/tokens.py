"""Bearer tokens: the file of accepted ones, and the refusal of calls without one."""

from __future__ import annotations

import hmac
import logging
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc

from edge_runtime.cloud.security import TOKEN_FORM
from edge_runtime.errors import SettingError, UseError
from edge_runtime.files import file_state

SHORTEST: Final = 16
"""Fewest characters of a token: a shorter one can be guessed, or is half written."""
HEALTH: Final = "/grpc.health.v1.Health/"
"""Calls that need no token: orchestrators have none, and learn only whether the server serves."""
_LOG: Final = logging.getLogger(__name__)


class Tokens:
    """The tokens of a file, one per line; read again when it changes.

    No `repr`, error or pickle holds a token. Several are valid at once, so that one can be rotated:
    add the new one, hand it out, remove the old one. Blank lines and lines that begin with # are
    skipped.

    If the file disappears or becomes invalid while the server runs, the last tokens stay valid and
    an error is logged: refusing everyone would turn a typing error into an outage, and admitting
    everyone would be worse.

    Args:
        file: The file.

    Raises:
        SettingError: The file holds no token, or a line that is not one.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._state = file_state(file)
        self._tokens = _read(file)

    def accept(self, sent: bytes) -> bool:
        """Return whether this is one of the tokens, in a time that does not depend on which."""
        self._refresh()
        is_known = False
        for token in self._tokens:  # all of them, always
            is_known |= hmac.compare_digest(token, sent)
        return is_known

    def _refresh(self) -> None:
        state = file_state(self._file)
        if state == self._state:
            return
        # Noted even if reading fails: one error per change, not one per call.
        self._state = state
        try:
            self._tokens = _read(self._file)
        except SettingError as error:
            _LOG.error("tokens are not renewed", extra={"reason": str(error)})
        else:
            _LOG.info("tokens are renewed", extra={"tokens": len(self._tokens)})

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"Tokens({str(self._file)!r}, {len(self)} of them)"

    def __reduce__(self) -> NoReturn:
        raise UseError(
            "expected no copy or pickle of Tokens, which would carry them: open the file"
        )


class TokenGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses calls without an accepted token as UNAUTHENTICATED, except health calls.

    Args:
        tokens: The accepted tokens.

    Attributes:
        refused: Number of calls refused so far.
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
        # As a stream, whatever the kind of call: its message is then never received.
        return grpc.stream_stream_rpc_method_handler(_refusal(reason))

    def _reason(self, sent: list[str | bytes]) -> str | None:
        """Return the reason of a refusal, without any part of what was sent."""
        advice = "send one 'authorization: Bearer TOKEN' as metadata"
        if len(sent) != 1:
            return f"expected a bearer token, got {'several' if sent else 'none'}: {advice}"
        value = sent[0] if isinstance(sent[0], bytes) else sent[0].encode()
        # White space around a field's value does not belong to it (RFC 9110, section 5.5), and
        # several spaces may follow the scheme (section 11.4).
        scheme, _, token = value.strip(b" \t").partition(b" ")
        if scheme.lower() != b"bearer":
            return f"expected a bearer token, got another scheme: {advice}"
        if not self._tokens.accept(token.lstrip(b" ")):
            return "the bearer token is not accepted here: check it, it may have been rotated"
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
                f"expected a file of bearer tokens, {file} cannot be read twice: write them to an "
                "ordinary file"
            )
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise SettingError(
            f"expected a readable file of bearer tokens, got {error.strerror or error} at {file}: "
            "check path and permissions"
        ) from None
    tokens: dict[bytes, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith(b"#"):
            _check(text, f"line {number} of {file}")
            tokens[text] = None  # in the file's order, each once
    if not tokens:
        raise SettingError(
            f"expected bearer tokens in {file}, one per line, got none: without a token every call "
            "is refused; write one there, or leave --token-file out"
        )
    return tuple(tokens)


def _check(line: bytes, place: str) -> None:
    text = line.decode("ascii", "replace")
    if not TOKEN_FORM.fullmatch(text):
        raise SettingError(
            f"expected a bearer token on {place} (letters, digits, -._~+/ and = at its end), got "
            "something else: write one token per line and nothing else"
        )
    if len(text) < SHORTEST:
        raise SettingError(
            f"expected at least {SHORTEST} characters on {place}, got {len(text)}: create a token "
            "that cannot be guessed, for example with `openssl rand -base64 32`"
        )
