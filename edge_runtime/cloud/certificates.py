"""Reads certificates, keys and secret files, and says in one line what is wrong with one.

For both ends of a link: what a client presents and trusts, and what a server does.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edge_runtime.cloud.dates import Validity, read_validity
from edge_runtime.errors import SettingError

_OTHERS: Final = 0o077
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII
)


def read_file(file: Path | str, name: str) -> bytes:
    """Return the content of a file that a setting names.

    Raises:
        SettingError: It cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SettingError(
            f"expected a readable file as {name}, got {error.strerror or error} at {file}: check "
            "path and permissions"
        ) from None


def split_certificates(pem: bytes) -> list[str]:
    """Return the certificates of a PEM file, each by itself and without what stands between."""
    # A bundle's comments may be no ASCII, which is all that OpenSSL takes as text.
    return [block.decode("ascii") for block in _PEM.findall(pem)]


def load_authorities(
    context: ssl.SSLContext, pem: bytes, source: Path | str, name: str = "ca"
) -> None:
    """Trust the authorities of a PEM file.

    Args:
        context: What is to trust them.
        pem: The file's content.
        source: Where it comes from, for the message.
        name: What the setting that names the file is called.

    Raises:
        SettingError: It holds none, or one that cannot be read.
    """
    blocks = split_certificates(pem)
    try:
        context.load_verify_locations(cadata="\n".join(blocks))
    except (ssl.SSLError, ValueError):
        raise SettingError(
            f"expected certificates in PEM in {source}, got {len(blocks)} that can be read: name "
            f"the CA's file as {name}"
        ) from None


def load_pair(context: ssl.SSLContext, certificate: Path | str, key: Path | str) -> None:
    """Present a certificate.

    Raises:
        SettingError: A file cannot be read, the key is encrypted, or the two are not a pair.
    """
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
    """Return from when to when the first certificate of a file is valid, None where it has none."""
    first = split_certificates(read_file(certificate, "certificate"))
    return read_validity(ssl.PEM_cert_to_DER_cert(first[0])) if first else None


def exposed_files(files: Iterable[Path | str | None]) -> list[str]:
    """Return those of the secret files that other users of this machine may read."""
    if os.name != "posix":
        return []
    secret = [Path(file) for file in files if file is not None]
    return [str(file) for file in secret if file.exists() and file.stat().st_mode & _OTHERS]


def _no_password() -> str:
    # Otherwise OpenSSL asks for it on the terminal.
    raise ValueError
