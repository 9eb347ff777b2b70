"""Who may call, and what protects the link: TLS, client certificates, bearer tokens."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc

from cloud_stub.operations.tokens import TokenGuard, Tokens
from edge_runtime.cloud import certificates
from edge_runtime.cloud.certificates import Validity
from edge_runtime.cloud.security import exposed_advice, utc_now
from edge_runtime.errors import SettingError
from edge_runtime.files import FileState, file_state
from edge_runtime.wire.address import is_loopback

ENDS_SOON_DAYS: Final = 14
_REMIND_EVERY: Final = timedelta(days=1)
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServerSecurity:
    """How the server protects its calls; secrets are named by file, never held here.

    Attributes:
        certificate: PEM file of the server's certificate with its chain; plaintext where None.
        key: PEM file of its private key, not encrypted.
        client_ca: PEM file of the authorities of which every client must present a certificate.
        token_file: File of bearer tokens, of which every call must bring one.

    Raises:
        SettingError: The settings contradict one another.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise SettingError(f"expected --{missing} beside --{given}, got none: give both")
        if self.client_ca is not None and self.certificate is None:
            raise SettingError(
                "expected --certificate and --key beside --client-ca, got none: without TLS there "
                "is no client certificate to check"
            )

    def check_host(self, host: str) -> None:
        """Refuse what would let secrets be read on the way, and warn of what else stands open.

        Args:
            host: What the server listens on.

        Raises:
            SettingError: Tokens would cross a network in plaintext.
        """
        if not is_loopback(host):
            self._check_reachable(host)
        for file in certificates.exposed_files((self.key, self.token_file)):
            # No refusal: containers mount their secrets so, and nobody else lives there.
            _LOG.warning("secret file is exposed", extra={"reason": exposed_advice(file)})

    def _check_reachable(self, host: str) -> None:
        is_plain = self.certificate is None
        if is_plain and self.token_file is not None:
            raise SettingError(
                f"expected --certificate and --key beside --token-file on {host}, got none: "
                "tokens would cross the network in plaintext; give both, or serve on loopback "
                "behind a proxy that speaks TLS"
            )
        plainly = ", in plaintext" if is_plain else ""
        openly = "" if self.client_ca or self.token_file else " and without authentication"
        if is_plain or openly:
            _LOG.warning(
                "%s is reachable from other machines%s%s: serve only to a network you trust",
                host,
                plainly,
                openly,
            )

    def certificates(self) -> ServerCertificates | None:
        """Read the certificate's files, None where the server speaks plaintext.

        Raises:
            SettingError: A file is missing or malformed, or the certificate has expired.
        """
        if self.certificate is None or self.key is None:
            return None
        return ServerCertificates(self.certificate, self.key, self.client_ca)

    def guard(self) -> TokenGuard | None:
        """Return the interceptor that asks for a token, None where none is asked for.

        Raises:
            SettingError: The file holds no tokens, or something else.
        """
        return None if self.token_file is None else TokenGuard(Tokens(self.token_file))


class ServerCertificates:
    """The server's certificate; new files are taken by the next connection, without a restart.

    Files that are renewed one after the other do not fit for a moment; until they do, and if they
    never do, the last good ones serve on. Connections that stand keep what they began with.

    Args:
        certificate: PEM file of the certificate with its chain.
        key: PEM file of its key.
        client_ca: PEM file of the clients' authorities, None where none is asked for.

    Attributes:
        validity: When the certificate in use is valid.

    Raises:
        SettingError: A file is missing or malformed, or the certificate has expired.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._lock = threading.Lock()  # gRPC asks from threads of its own
        self._state = self._look()
        self._first, self.validity = self._read()
        self._reminded = utc_now() - _REMIND_EVERY
        self._remind()

    def credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC opens a port with."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._renewed, require_client_authentication=self._client_ca is not None
        )

    def _renewed(self) -> Any:
        """Return the files' content where it is new, else None; called before every handshake."""
        with self._lock:
            self._remind()
            state = self._look()
            if state == self._state:
                return None
            # Noted before reading: what is written meanwhile changes it again.
            self._state = state
            try:
                configuration, self.validity = self._read()
            except (SettingError, OSError) as error:
                _LOG.error("certificate stays as it was", extra={"reason": str(error)})
                return None
            _LOG.info("certificate read again", extra={"valid": str(self.validity)})
            return configuration

    def _look(self) -> tuple[FileState | None, ...]:
        return tuple(file_state(file) for file in (self._certificate, self._key, self._client_ca))

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, Validity]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificates.load_pair(context, self._certificate, self._key)
        roots = None
        if self._client_ca is not None:
            roots = certificates.read_file(self._client_ca, "client-ca")
            certificates.load_authorities(context, roots, self._client_ca, "client-ca")
        validity = _validity(self._certificate)
        pair = (
            certificates.read_file(self._key, "key"),
            certificates.read_file(self._certificate, "certificate"),
        )
        return grpc.ssl_server_certificate_configuration([pair], roots), validity

    def _remind(self) -> None:
        """Log once a day that the certificate in use is not valid, or not for long."""
        now = utc_now()
        is_near = self.validity.days_left(now) < ENDS_SOON_DAYS or now < self.validity.begin
        if is_near and now - self._reminded >= _REMIND_EVERY:
            self._reminded = now
            _LOG.warning(
                "certificate is valid %s, this machine's clock says %s: renew the files in place, "
                "no restart is needed",
                self.validity,
                f"{now:%Y-%m-%d %H:%M} UTC",
            )


def _validity(certificate: Path) -> Validity:
    validity = certificates.validity_of(certificate)
    if validity is None:
        raise SettingError(
            f"expected a certificate in PEM in {certificate}, got none: name its file"
        )
    if validity.end <= utc_now():
        raise SettingError(
            f"expected a certificate that has not expired, {certificate} was valid {validity}: no "
            "client accepts it; renew it, or set this machine's clock"
        )
    return validity
