"""Tells apart what gRPC reports: out of reach, overloaded, refused, misconfigured, too late."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

from edge_runtime import contract
from edge_runtime.errors import (
    CloudDeadlineError,
    CloudError,
    CloudMisconfiguredError,
    CloudOverloadedError,
    CloudProtocolError,
    CloudRejectedError,
    CloudUnavailableError,
)

_DETAILS_LENGTH: Final = 300
_MOST_DIGITS: Final = 10
_CREDENTIALS: Final = "the server does not accept the caller: check token and client certificate"
_KINDS: Final[dict[grpc.StatusCode, tuple[type[CloudError], str]]] = {
    grpc.StatusCode.UNAVAILABLE: (CloudUnavailableError, "is the server running there?"),
    grpc.StatusCode.CANCELLED: (CloudUnavailableError, "the call was cut off"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (CloudDeadlineError, "raise deadline_s if this is common"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (CloudOverloadedError, "the server has too much to do"),
    grpc.StatusCode.UNAUTHENTICATED: (CloudMisconfiguredError, _CREDENTIALS),
    grpc.StatusCode.PERMISSION_DENIED: (CloudMisconfiguredError, _CREDENTIALS),
    grpc.StatusCode.UNIMPLEMENTED: (
        CloudProtocolError,
        "expected a server of the Open Inference Protocol over gRPC",
    ),
}
# A server that failed is not asked again for parts: what hangs a model would hang it once more.
_DIVISIBLE: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)
# gRPC has one code for a full server and for a message that is too large, and another for a server
# that is gone and for a certificate that does not fit: the words alone tell them apart.
_TOO_LARGE: Final = re.compile(r"message larger than max", re.IGNORECASE)
# Bytes that are no HTTP/2, seen by this side: no server said so, whatever the code.
_GARBLED: Final = re.compile(r"^stream removed\b", re.IGNORECASE)
# The words of gRPC 1.62 to 1.85 and of Python's own `ssl`. A handshake that was only cut off ("read
# failed") is an outage. The first that fits counts.
_CERTIFICATE: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(words, re.IGNORECASE), advice)
    for words, advice in (
        (
            "_alert_|unwrap failed",
            "the server refused the handshake: check the client certificate, its key and its dates",
        ),
        (
            "certificate has expired",
            "renew the server's certificate, or set this device's clock if it is wrong",
        ),
        (
            "certificate is not yet valid",
            "set this device's clock, which is behind",
        ),
        (
            "hostname (verification|mismatch)|ip address mismatch|peer name",
            "use an address that the certificate names, or give that name as server_name "
            "(--server-name)",
        ),
        (
            "issuer certificate|self.signed certificate|certificate.verify.failed",
            "give the CA that signed the server's certificate as ca (--ca)",
        ),
        (
            "wrong.version.number",
            "the server speaks no TLS there: use its TLS port, or plaintext on a network you trust",
        ),
        (
            "cannot check peer|security handshaker|(ssl|tls) handshake failed",
            "check certificate, key and that both sides speak TLS",
        ),
    )
)


def translate(
    error: Any, address: str, timeout_s: float, hidden: Callable[[str], str] = str
) -> CloudError:
    """Return the `CloudError` of a `grpc.RpcError`, with one line of text.

    Args:
        error: What a call raised.
        address: Where it went, for the text.
        timeout_s: How long it had.
        hidden: Takes secrets out of what the server says.
    """
    code = error.code()
    details = one_line(hidden(error.details() or "no details"))[:_DETAILS_LENGTH]
    kind, advice = _kind(code, details)
    if kind is CloudDeadlineError:
        return kind(f"{address}: no answer within {timeout_s:g} s: {advice}")
    words = f"{address}: {code.name}: {details}: {advice}"
    if kind is not CloudRejectedError:
        return kind(words)
    named = _refused_rows(error.trailing_metadata() or ())
    return CloudRejectedError(
        words,
        rows={row: f"{address}: {code.name}: {hidden(why)}" for row, why in named.items()},
        is_divisible=code in _DIVISIBLE or bool(_TOO_LARGE.search(details)),
    )


def _refused_rows(metadata: Iterable[tuple[str, str | bytes]]) -> dict[int, str]:
    """Return which rows a server says it refuses, and why."""
    said = [str(value).partition(" ") for key, value in metadata if key == contract.REFUSED_ROW]
    return {
        int(row): one_line(why)[:_DETAILS_LENGTH]
        for row, _, why in said
        if row.isascii() and row.isdigit() and len(row) < _MOST_DIGITS
    }


def _kind(code: grpc.StatusCode, details: str) -> tuple[type[CloudError], str]:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details):
        return CloudRejectedError, "send smaller inputs or raise the message limit"
    mistake = certificate_advice(details) if code is grpc.StatusCode.UNAVAILABLE else None
    if mistake is not None:
        return CloudMisconfiguredError, mistake
    if _GARBLED.search(details):
        return CloudUnavailableError, "the connection broke in the middle of an answer"
    return _KINDS.get(code, (CloudRejectedError, "see the server's log"))


def certificate_advice(details: str) -> str | None:
    """Return what to do where words speak of certificates that do not fit, None for others."""
    return next((advice for words, advice in _CERTIFICATE if words.search(details)), None)


def one_line(text: object) -> str:
    """Return a text without its line breaks."""
    return " ".join(str(text).split())
