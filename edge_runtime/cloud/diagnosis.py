"""Diagnoses a link's certificates where gRPC reports only "Socket closed".

A separate connection with the standard library gives the exact reason.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from edge_runtime.cloud.certificates import Validity, read_validity
from edge_runtime.cloud.failures import certificate_advice
from edge_runtime.cloud.security import Security, utc_now
from edge_runtime.files import one_line

_EXPIRED, _NOT_YET, _OTHER_HOST, _OTHER_IP = 10, 9, 62, 64
"""OpenSSL's X509_V_ERR_ codes."""
_NAMES_LENGTH: Final = 300
# A client's first bytes in HTTP/2; a server that accepts the client answers with its settings.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SPEAKS_TLS: Final = (
    "the server speaks TLS, but this client uses plaintext: pass security=Security(...) (--tls)"
)
_NO_CLIENT: Final = (
    "the server closed the connection after the handshake: it does not accept the client "
    "certificate, which was {file}: give one that the server's CA signed and that has not expired "
    "as certificate and key"
)


def find_mistake(host: str, port: int, security: Security | None, limit_s: float) -> str | None:
    """Return the mistake in a link's protection and its remedy, on one line.

    None where the protection is right, or nothing answers at the address. A missing or malformed
    file of `security` raises a `SettingError`.

    Args:
        host: Host of the server.
        port: Port of the server.
        security: The client's protection of the link; None is plaintext.
        limit_s: Time limit for each answer of the server.
    """
    if security is None:
        return _SPEAKS_TLS if _speaks_tls(host, port, limit_s) else None
    expired = client_mistake(security)
    try:
        with _connect(host, port, security.ssl_context(), security.server_name, limit_s) as link:
            return expired or _after_handshake(link, security)
    except ssl.SSLCertVerificationError as error:
        return _certificate_mistake(error, host, port, security, limit_s)
    except ssl.SSLError as error:
        advice = certificate_advice(one_line(error))
        return advice and (expired or f"{one_line(error)}: {advice}")
    except OSError:
        return expired


def client_mistake(security: Security) -> str | None:
    """Return the mistake in the dates of the client certificate; None where they are right."""
    validity = security.client_validity()
    if validity is None or validity.begin <= utc_now() <= validity.end:
        return None
    return (
        f"client certificate {security.certificate}: {_dates(validity)}: renew it, or set the clock"
    )


def server_validity(host: str, port: int, security: Security, limit_s: float) -> Validity | None:
    """Return the validity of the server's certificate, unchecked; None where nothing answers."""
    context = security.ssl_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        _connect(host, port, context, security.server_name, limit_s) as link,
    ):
        return read_validity(link.getpeercert(binary_form=True) or b"")
    return None


@contextlib.contextmanager
def _connect(
    host: str, port: int, context: ssl.SSLContext, name: str | None, limit_s: float
) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection((host, port), limit_s) as plain,
        context.wrap_socket(plain, server_hostname=name or host) as link,
    ):
        yield link


def _speaks_tls(host: str, port: int, limit_s: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connect(host, port, context, None, limit_s):
            return True
    except ssl.SSLError as error:
        return "ALERT" in str(error.reason)  # the server wants a client certificate, for example
    except OSError:
        return False


def _after_handshake(link: ssl.SSLSocket, security: Security) -> str | None:
    if link.selected_alpn_protocol() != "h2":
        return "the server speaks TLS, but not HTTP/2 in it: is this the port of the gRPC server?"
    try:
        # In TLS 1.3 the handshake ends before the server has checked the client certificate.
        link.sendall(_PREFACE)
        accepted = bool(link.recv(1))
    except TimeoutError:
        return None
    except OSError:
        accepted = False
    return None if accepted else _NO_CLIENT.format(file=security.certificate or "none")


def _certificate_mistake(
    error: ssl.SSLCertVerificationError,
    host: str,
    port: int,
    security: Security,
    limit_s: float,
) -> str:
    text = one_line(error.verify_message)
    advice = certificate_advice(text) or "check the server's certificate"
    if error.verify_code in {_EXPIRED, _NOT_YET}:
        validity = server_validity(host, port, security, limit_s)
        text = f"{text}: {_dates(validity)}" if validity else text
    elif error.verify_code in {_OTHER_HOST, _OTHER_IP}:
        text = f"{text.rstrip('.')} but for {_names(host, port, security, limit_s)}"
    else:
        text = f"{text} in {security.ca or 'the store of the system'}"
    return f"{text}: {advice}"


def _names(host: str, port: int, security: Security, limit_s: float) -> str:
    context = security.ssl_context()
    context.check_hostname = False
    with (
        contextlib.suppress(OSError),
        _connect(host, port, context, security.server_name, limit_s) as link,
    ):
        names = (link.getpeercert() or {}).get("subjectAltName", ())
        return one_line(", ".join(str(name[1]) for name in names), _NAMES_LENGTH) or "no name"
    return "other names"


def _dates(validity: Validity) -> str:
    return f"valid {validity}, this device's clock says {utc_now():%Y-%m-%d %H:%M} UTC"
