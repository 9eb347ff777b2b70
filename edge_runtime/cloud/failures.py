"""Translates gRPC's errors: unreachable, overloaded, refused, misconfigured, too late."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import grpc

from edge_runtime import contract
from edge_runtime.cloud.redaction import foreign
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
_MAX_DIGITS: Final = 10
_CREDENTIALS: Final = "the server refuses the caller: check token and client certificate"
_KINDS: Final[dict[grpc.StatusCode, tuple[type[CloudError], str]]] = {
    grpc.StatusCode.UNAVAILABLE: (CloudUnavailableError, "is the server running there?"),
    grpc.StatusCode.CANCELLED: (CloudUnavailableError, "the call was cut off"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (CloudDeadlineError, "raise deadline_s if this is common"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (CloudOverloadedError, "the server is overloaded"),
    grpc.StatusCode.UNAUTHENTICATED: (CloudMisconfiguredError, _CREDENTIALS),
    grpc.StatusCode.PERMISSION_DENIED: (CloudMisconfiguredError, _CREDENTIALS),
    grpc.StatusCode.UNIMPLEMENTED: (
        CloudProtocolError,
        "expected a server of the Open Inference Protocol over gRPC",
    ),
}
# After a server failure no part is sent again: an input that hangs a model would hang it again.
_DIVISIBLE: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)
# gRPC has one code for an overloaded server and for a message that is too large, and another for a
# server that is down and for a wrong certificate: only the text distinguishes them.
_TOO_LARGE: Final = re.compile(r"message larger than max", re.IGNORECASE)
# This side received bytes other than HTTP/2: no server sent this error, whatever its code.
_GARBLED: Final = re.compile(r"^stream removed\b", re.IGNORECASE)
# Texts of gRPC 1.62 to 1.85 and of Python's `ssl`; the first match counts. A handshake that was
# merely interrupted ("read failed") is an outage.
_CERTIFICATE: Final = {
    "_alert_|unwrap failed": (
        "the server refused the handshake: check the client certificate, its key and its dates"
    ),
    "certificate has expired": (
        "renew the server's certificate, or set this device's clock if it is wrong"
    ),
    "certificate is not yet valid": "set this device's clock, which is behind",
    "hostname (verification|mismatch)|ip address mismatch|peer name": (
        "use an address that the certificate names, or give that name as server_name "
        "(--server-name)"
    ),
    "issuer certificate|self.signed certificate|certificate.verify.failed": (
        "give the CA that signed the server's certificate as ca (--ca)"
    ),
    "wrong.version.number": (
        "the server speaks no TLS there: use its TLS port, or plaintext on a network you trust"
    ),
    "cannot check peer|security handshaker|(ssl|tls) handshake failed": (
        "check certificate, key and that both sides speak TLS"
    ),
}


def translate(error: Any, address: str, timeout_s: float) -> CloudError:
    """Return the `CloudError` of a `grpc.RpcError`."""
    code = error.code()
    details = foreign(error.details() or "no details", _DETAILS_LENGTH)
    kind, advice = _kind(code, details)
    if kind is CloudDeadlineError:
        return kind(f"{address}: no answer within {timeout_s:g} s: {advice}")
    text = f"{address}: {code.name}: {details}: {advice}"
    if kind is not CloudRejectedError:
        return kind(text)
    reasons = _refused_rows(error.trailing_metadata() or ())
    return CloudRejectedError(
        text,
        rows={row: f"{address}: {code.name}: {why}" for row, why in reasons.items()},
        is_divisible=code in _DIVISIBLE or bool(_TOO_LARGE.search(details)),
    )


def _refused_rows(metadata: Iterable[tuple[str, str | bytes]]) -> dict[int, str]:
    """Return the reason for each row that the server refuses."""
    entries = [str(value).partition(" ") for key, value in metadata if key == contract.REFUSED_ROW]
    return {
        int(row): foreign(reason, _DETAILS_LENGTH)
        for row, _, reason in entries
        if row.isascii() and row.isdigit() and len(row) < _MAX_DIGITS
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
    """Return the advice for an error text about certificates; None for other texts."""
    matches = (
        advice for text, advice in _CERTIFICATE.items() if re.search(text, details, re.IGNORECASE)
    )
    return next(matches, None)
