"""Reads from when to when a certificate is valid.

The standard library tells that only of a certificate that it just accepted, and the ones of
interest are those that it refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from edge_runtime.errors import SettingError

_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_LONG_LENGTH: Final = 0x80
_FIELDS_BEFORE: Final = 3
"""Serial number, signature algorithm and issuer stand before the dates."""


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate is valid, both in UTC."""

    begin: datetime
    end: datetime

    def days_left(self, now: datetime) -> float:
        """Return the days until it expires, negative where it has."""
        return (self.end - now).total_seconds() / 86400

    def __str__(self) -> str:
        return f"{self.begin:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


def read_validity(der: bytes) -> Validity:
    """Read the dates of a certificate (RFC 5280, section 4.1).

    Args:
        der: The certificate, in DER.

    Raises:
        SettingError: It is no certificate.
    """
    try:
        at = _open(der, _open(der, 0))
        skipped = _FIELDS_BEFORE + (der[at] == _VERSION)
        for _ in range(skipped):
            at = _element(der, at)[1]
        at = _open(der, at)
        return Validity(_time(der, at), _time(der, _element(der, at)[1]))
    except (IndexError, ValueError):
        raise SettingError(
            "expected a certificate, got bytes that are none: write it as PEM again"
        ) from None


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at a place begins and ends."""
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
    if der[at] == _UTC_TIME:  # two digits, of which RFC 5280 says that 50 is 1950
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
