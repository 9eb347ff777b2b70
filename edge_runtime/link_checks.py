"""What `doctor` finds out about the way to the cloud: clock, link, certificates."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from edge_runtime import contract
from edge_runtime.errors import (
    CloudMisconfiguredError,
    CloudUnavailableError,
    GatekeeperError,
    SettingError,
)
from edge_runtime.wire.address import is_loopback, split_address

if TYPE_CHECKING:
    from edge_runtime.cloud.dates import Validity
    from edge_runtime.cloud.security import Security

_FEW_DAYS: Final = 30
_SLACK: Final = timedelta(days=1)
"""File systems and time zones may shift a file's date by hours."""
_HANDSHAKE_S: Final = 5.0
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")


class ConcernError(GatekeeperError):
    """Something works today and needs attention."""


def check_clock(bundle: Path | None) -> str:
    """Hold the device's clock to the newest file that it must be later than.

    Args:
        bundle: A bundle folder, whose date counts too.

    Raises:
        SettingError: The clock is behind.
    """
    files = [Path(__file__)] + ([] if bundle is None else [bundle / contract.BUNDLE_FILE])
    dates = {file: file.stat().st_mtime for file in files if file.exists()}
    newest = max(dates, key=lambda file: dates[file], default=None)
    now = _now()
    if newest is not None:
        date = datetime.fromtimestamp(dates[newest], UTC)
        if now < date - _SLACK:
            raise SettingError(
                f"expected a time after {date:%Y-%m-%d %H:%M} UTC, the date of {newest}, got "
                f"{now:%Y-%m-%d %H:%M} UTC: set the clock (NTP), or certificates seem not yet valid"
            )
    return f"{now:%Y-%m-%d %H:%M} UTC"


def check_link(address: str, limit_s: float) -> str:
    """Open a connection to the server and close it.

    Raises:
        CloudUnavailableError: Nobody answers there.
        ConcernError: Nobody does, but a proxy may reach it.
    """
    host, port = split_address(address)
    begin = perf_counter()
    try:
        socket.create_connection((host, port), limit_s).close()
    except OSError as error:
        proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
        if proxy is not None and not is_loopback(host):
            raise ConcernError(
                f"no connection to {address} but through the proxy in {proxy}, which gRPC uses: "
                "see whether the cloud answers"
            ) from None
        raise CloudUnavailableError(
            f"expected a server at {address}, got {error.strerror or error}: check address, "
            "network and firewall, and that the server runs"
        ) from None
    return f"{address} takes connections, {(perf_counter() - begin) * 1e3:.1f} ms"


def check_certificates(address: str, security: Security | None, limit_s: float) -> str:
    """Look at both sides' certificates and at the files that hold secrets.

    Raises:
        CloudMisconfiguredError: A certificate does not fit, or one side speaks plaintext.
        CloudUnavailableError: Nobody answers there.
        SettingError: A file is missing or malformed.
        ConcernError: A certificate expires soon, or others may read a secret.
    """
    from edge_runtime.cloud.diagnosis import find_mistake, server_validity

    host, port = split_address(address)
    limit_s = min(limit_s, _HANDSHAKE_S)
    mistake = find_mistake(host, port, security, limit_s)
    if mistake is not None:
        raise CloudMisconfiguredError(f"{address}: {mistake}")
    if security is None:
        return "none, the link is in plaintext"
    server, token = server_validity(host, port, security, limit_s), security.token()
    if server is None:
        raise CloudUnavailableError(f"{address} shows no certificate: see the link above")
    dated = {"the server's certificate": server}
    client = security.client_validity()
    if client is not None:
        dated[f"client certificate {security.certificate}"] = client
    _raise_concerns(dated, security)
    found = [
        f"{name} has {validity.days_left(_now()):.0f} days" for name, validity in dated.items()
    ]
    return "; ".join([*found, *([] if token is None else [f"token from {token.source}"])])


def _raise_concerns(dated: dict[str, Validity], security: Security) -> None:
    from edge_runtime.cloud.security import exposed_advice

    concerns = [
        f"{name} has {validity.days_left(_now()):.0f} days left: renew it"
        for name, validity in dated.items()
        if validity.days_left(_now()) < _FEW_DAYS
    ]
    concerns += map(exposed_advice, security.exposed_files())
    if concerns:
        raise ConcernError("; ".join(concerns))


def _now() -> datetime:
    return datetime.now(UTC)
