"""Reads certificates, keys and secret files for both ends of a link, with one-line errors.

The validity is read from the DER bytes: the standard library reports it only for certificates that
it has just accepted, and it is needed for those that were refused.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from edge_runtime.errors import SettingError

_OTHERS: Final = 0o077
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII
)
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_LONG_LENGTH: Final = 0x80
_FIELDS_BEFORE: Final = 3
"""Serial number, signature algorithm and issuer precede the dates."""


def read_file(file: Path | str, name: str) -> bytes:
    """Return the content of a file that a setting names, or raise a `SettingError`."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SettingError(
            f"expected a readable file as {name}, got {error.strerror or error} at {file}: check "
            "path and permissions"
        ) from None


def split_certificates(pem: bytes) -> list[str]:
    """Return the certificates of a PEM file one by one, without the text in between."""
    # Comments may be other than ASCII, which OpenSSL refuses.
    return [block.decode("ascii") for block in _PEM.findall(pem)]


def load_authorities(
    context: ssl.SSLContext, pem: bytes, source: Path | str, name: str = "ca"
) -> None:
    """Trust a PEM file's authorities, or raise a `SettingError` that names source and setting."""
    blocks = split_certificates(pem)
    try:
        context.load_verify_locations(cadata="\n".join(blocks))
    except (ssl.SSLError, ValueError):
        raise SettingError(
            f"expected certificates in PEM in {source}, got {len(blocks)} that can be read: name "
            f"the CA's file as {name}"
        ) from None


def load_pair(context: ssl.SSLContext, certificate: Path | str, key: Path | str) -> None:
    """Load a certificate with its key, or raise a `SettingError` if they do not fit."""
    for file, name in ((certificate, "certificate"), (key, "key")):
        read_file(file, name)  # OpenSSL does not say which of the two is missing
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "an encrypted key"
        raise SettingError(
            f"expected a pair in PEM, unencrypted, as certificate {certificate} and key {key}, "
            f"got {reason}: name the key that belongs to the certificate"
        ) from None


def validity_of(certificate: Path | str) -> Validity | None:
    """Return the validity of the first certificate of a file; None where it has none."""
    first = split_certificates(read_file(certificate, "certificate"))
    return read_validity(ssl.PEM_cert_to_DER_cert(first[0])) if first else None


def exposed_files(files: Iterable[Path | str | None]) -> list[str]:
    """Return the secret files that other users of this machine may read."""
    if os.name != "posix":
        return []
    secret = [Path(file) for file in files if file is not None]
    return [str(file) for file in secret if file.exists() and file.stat().st_mode & _OTHERS]


def _no_password() -> str:
    # Otherwise OpenSSL prompts for it on the terminal.
    raise ValueError


@dataclass(frozen=True)
class Validity:
    """Begin and end of a certificate's validity, in UTC."""

    begin: datetime
    end: datetime

    def days_left(self, now: datetime) -> float:
        """Return the days until the end, negative once it is past."""
        return (self.end - now).total_seconds() / 86400

    def __str__(self) -> str:
        return f"{self.begin:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


def read_validity(der: bytes) -> Validity:
    """Read a DER certificate's dates (RFC 5280, section 4.1), or raise a `SettingError`."""
    try:
        at = _open(der, _open(der, 0))
        skipped = _FIELDS_BEFORE + (der[at] == _VERSION)
        for _ in range(skipped):
            at = _element(der, at)[1]
        at = _open(der, at)
        return Validity(_time(der, at), _time(der, _element(der, at)[1]))
    except (IndexError, ValueError):
        raise SettingError("expected a certificate, got other bytes: write it as PEM") from None


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Return begin and end of the content of the element at a position."""
    length, at = der[at + 1], at + 2
    if length >= _LONG_LENGTH:
        size = length - _LONG_LENGTH
        length, at = int.from_bytes(der[at : at + size], "big"), at + size
    return at, at + length


def _open(der: bytes, at: int) -> int:
    return _element(der, at)[0]


def _time(der: bytes, at: int) -> datetime:
    begin, end = _element(der, at)
    text = der[begin:end].decode("ascii")
    if der[at] == _UTC_TIME:  # a year of two digits: by RFC 5280, 50 and above are 19xx
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
