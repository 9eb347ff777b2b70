"""Protection of the server's calls: TLS, client certificates, bearer tokens."""

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
    """The protection of the server's calls; secrets are named by file, never held here.

    Attributes:
        certificate: PEM file of the server's certificate with its chain; plaintext if None.
        key: PEM file of its private key, not encrypted.
        client_ca: PEM file of the authorities that must have signed every client's certificate.
        token_file: File of bearer tokens; every call must carry one of them.

    Raises:
        SettingError: The settings contradict one another.
    """

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            one, other = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise SettingError(f"--{one} needs --{other}: give both")
        if self.client_ca is not None and self.certificate is None:
            raise SettingError(
                "--client-ca needs --certificate and --key: without TLS there is no client "
                "certificate to check"
            )

    def check_host(self, host: str) -> None:
        """Refuse an address on which secrets could be read in transit; warn of other risks.

        Args:
            host: Address that the server listens on.

        Raises:
            SettingError: Tokens would cross a network in plaintext.
        """
        if not is_loopback(host):
            self._check_reachable(host)
        for file in certificates.exposed_files((self.key, self.token_file)):
            # No refusal: containers mount their secrets this way, and have no other users.
            _LOG.warning("secret file is exposed", extra={"reason": exposed_advice(file)})

    def _check_reachable(self, host: str) -> None:
        is_plain = self.certificate is None
        if is_plain and self.token_file is not None:
            raise SettingError(
                f"--token-file on {host} needs --certificate and --key: tokens would cross the "
                "network in plaintext; give both, or serve on loopback behind a proxy that "
                "terminates TLS"
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
        """Read the certificate's files; None for a server in plaintext.

        Raises:
            SettingError: A file is missing or malformed, or the certificate has expired.
        """
        if self.certificate is None or self.key is None:
            return None
        return ServerCertificates(self.certificate, self.key, self.client_ca)

    def guard(self) -> TokenGuard | None:
        """Return the interceptor that checks tokens; None for a server without tokens.

        Raises:
            SettingError: The file holds no tokens, or a line that is not a token.
        """
        return None if self.token_file is None else TokenGuard(Tokens(self.token_file))


class ServerCertificates:
    """The server's certificate; the next connection uses renewed files, without a restart.

    While certificate and key do not match (one of them may not be written yet), the last good pair
    stays in use. Existing connections keep the certificate that they began with.

    Args:
        certificate: PEM file of the certificate with its chain.
        key: PEM file of its key.
        client_ca: PEM file of the clients' authorities; None without client certificates.

    Attributes:
        validity: Begin and end of the validity of the certificate in use.

    Raises:
        SettingError: A file is missing or malformed, or the certificate has expired.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._lock = threading.Lock()  # gRPC calls from threads of its own
        self._state = self._file_states()
        self._first, self.validity = self._read()
        self._reminded = utc_now() - _REMIND_EVERY
        self._remind()

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a port of gRPC."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._renew, require_client_authentication=self._client_ca is not None
        )

    def _renew(self) -> Any:
        """Return the files' content if it is new, otherwise None; called before a handshake."""
        with self._lock:
            self._remind()
            state = self._file_states()
            if state == self._state:
                return None
            # Noted before reading: a write in the meantime changes it again.
            self._state = state
            try:
                configuration, self.validity = self._read()
            except (SettingError, OSError) as error:
                _LOG.error("certificate is not renewed", extra={"reason": str(error)})
                return None
            _LOG.info("certificate is renewed", extra={"valid": str(self.validity)})
            return configuration

    def _file_states(self) -> tuple[FileState | None, ...]:
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
        """Warn once a day of a certificate that is not valid yet, not any more, or not for long."""
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
            f"expected a certificate in PEM in {certificate}, found none: name its file"
        )
    if validity.end <= utc_now():
        raise SettingError(
            f"expected a certificate that has not expired, {certificate} was valid {validity}: no "
            "client accepts it; renew it, or correct this machine's clock"
        )
    return validity
