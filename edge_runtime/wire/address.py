"""Parses and joins server addresses of the form HOST:PORT."""

from __future__ import annotations

import ipaddress

from edge_runtime.errors import SettingError

MAX_PORT = 65535


def split_address(address: str) -> tuple[str, int]:
    """Split `HOST:PORT`, `1.2.3.4:PORT` or `[::1]:PORT`.

    Raises:
        SettingError: The address has another form, or the port is outside 1 to 65535.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    is_bracketed = host != bare
    is_number = port.isascii() and port.isdigit() and 1 <= int(port) <= MAX_PORT
    # Without brackets it is unclear where the port of an IPv6 address begins.
    if not (colon and bare and is_number) or (":" in bare) != is_bracketed or "/" in bare:
        raise SettingError(
            f"expected an address as HOST:PORT, got {address!r}: write it as localhost:8001"
        )
    return bare, int(port)


def is_loopback(host: str) -> bool:
    """Return whether traffic to this host name or IP address stays on this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def join_address(host: str, port: int) -> str:
    """Write host and port as one address, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
