"""How the link to the cloud is protected: TLS, a client certificate, a bearer token.

    security = Security(ca=Path("ca.pem"), token_file=Path("/run/secrets/token"))
    cascade = Cascade.open("bundle", cloud="large.example.org:8001", security=security)

A `Security` always means TLS. There is no way to say "a token, but in plaintext".
"""

from __future__ import annotations

import logging
import os
import pkgutil
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_runtime.cloud import certificates
from edge_runtime.cloud.certificates import Validity
from edge_runtime.errors import SettingError

# MERGEDOC edge_runtime/cloud/token.py: 'Reads a bearer token from a file or the environment, again and again.'

if TYPE_CHECKING:
    import grpc

_LOG: Final = logging.getLogger(__name__)
_GRPC_ROOTS: Final = "_cython/_credentials/roots.pem"

TOKEN_FORM: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1: anything else would break the header that carries it."""
_SCHEME: Final = "Bearer "


@dataclass(frozen=True, kw_only=True)
class Security:
    """TLS to the cloud; secrets are named by file or environment variable, never held here.

    Attributes:
        ca: PEM file of the authorities that may vouch for the server; the system's where None.
        certificate: PEM file of the client certificate with its chain, for mutual TLS.
        key: PEM file of its private key, not encrypted.
        token_file: File that holds the bearer token; read again when it changes.
        token_env: Environment variable that holds the bearer token instead.
        server_name: Name that the server's certificate must bear; that of the address where None.

    Raises:
        SettingError: The settings contradict one another.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    token_file: Path | str | None = None
    token_env: str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise SettingError(f"expected {missing} beside {given}, got none: give both or neither")
        if self.token_file is not None and self.token_env is not None:
            raise SettingError(
                "expected the token from one place, got token_file and token_env: give one of them"
            )

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files and return what gRPC opens a channel with.

        Raises:
            SettingError: A file is missing, no PEM, or key and certificate are not a pair.
        """
        import grpc  # here, so that `doctor` can say that it is missing

        if self.ca is not None:
            self._trust(_context())  # gRPC would say nothing of a file that holds no certificate
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(self.roots())
        self._present(_context())
        return grpc.ssl_channel_credentials(
            self.roots(),
            certificates.read_file(self.key, "key"),
            certificates.read_file(self.certificate, "certificate"),
        )

    def token(self) -> Token | None:
        """Return the reader of the bearer token, None where none is asked for.

        Raises:
            SettingError: The token is missing or malformed.
        """
        if self.token_file is None and self.token_env is None:
            return None
        return Token(None if self.token_file is None else Path(self.token_file), self.token_env)

    def roots(self) -> bytes | None:
        """Return the trusted authorities as PEM; None leaves the choice to gRPC."""
        return system_roots() if self.ca is None else certificates.read_file(self.ca, "ca")

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context of the standard library that checks what `credentials` checks.

        Raises:
            SettingError: As `credentials`.
        """
        context = _context()
        self._trust(context)
        if self.certificate is not None:
            self._present(context)
        return context

    def client_validity(self) -> Validity | None:
        """Return from when to when the client certificate is valid, None where there is none."""
        return None if self.certificate is None else certificates.validity_of(self.certificate)

    def exposed_files(self) -> list[str]:
        """Return the secret files that other users of this machine may read."""
        return certificates.exposed_files((self.key, self.token_file))

    def warn_of_exposed_files(self) -> None:
        """Log a warning for each secret file that others may read.

        No refusal: containers mount their secrets so, and nobody else lives there.
        """
        for file in self.exposed_files():
            _LOG.warning("%s", exposed_advice(file))

    def _trust(self, context: ssl.SSLContext) -> None:
        source = self.ca or "the store of the system"
        certificates.load_authorities(context, self.roots() or b"", source)

    def _present(self, context: ssl.SSLContext) -> None:
        certificates.load_pair(context, self.certificate or "", self.key or "")


def exposed_advice(file: str) -> str:
    """Return what to say of a secret file that others may read."""
    return f"expected {file} to be readable by its owner alone, got more readers: chmod 600 {file}"


def system_roots() -> bytes | None:
    """Return the authorities that this machine trusts, as PEM.

    gRPC brings a list of its own and knows nothing of what an administrator added to the system's;
    its list is the last resort, for systems without a store in files.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile).read_bytes()
    if paths.capath:
        files = sorted(Path(paths.capath).glob("*.[0-9]"))
        if files:
            return b"\n".join(file.read_bytes() for file in files)
    context = ssl.create_default_context()  # knows the store of Windows
    found = [ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True)]
    if found:
        return "\n".join(found).encode()
    return pkgutil.get_data("grpc", _GRPC_ROOTS)


def utc_now() -> datetime:
    """Return what this device's clock says."""
    return datetime.now(UTC)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    return context


class Token:
    """A bearer token that may change while the program runs; its value is in no `repr` or error.

    Args:
        file: Where it stands, alone, white space around it aside.
        env: The environment variable that holds it, where there is no file.

    Raises:
        SettingError: It is missing or malformed.
    """

    def __init__(self, file: Path | None, env: str | None) -> None:
        self._file, self._env = file, env
        self._state: tuple[int, ...] | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._state, text = self._look()
        if text is None or not TOKEN_FORM.fullmatch(text):
            came = "nothing" if not text else "something else"
            raise SettingError(
                f"expected a bearer token in {self.source}, got {came}: write the token there, "
                "and nothing but it"
            )
        self._set(text)

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return str(self._file) if self._file else f"the environment variable {self._env}"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the token as a call's metadata; costs a look at the file's date."""
        if self._file is None:
            return self._metadata
        # A file that is just being replaced may be gone or empty: the old token serves till then.
        state, text = self._look()
        if text is not None and TOKEN_FORM.fullmatch(text):
            self._set(text)
            self._state = state
        return self._metadata

    def hide_in(self, text: str) -> str:
        """Return a text of the server's without the token: some repeat what they refuse."""
        for _, value in self._metadata:
            text = text.replace(value.removeprefix(_SCHEME), "[token]")
        return text

    def _look(self) -> tuple[tuple[int, ...] | None, str | None]:
        """Return the file's state and, where that is new, the token."""
        if self._file is None:
            return None, os.environ.get(self._env or "")
        try:
            found = self._file.stat()
            state = (found.st_mtime_ns, found.st_size, found.st_ino)
            if state == self._state:
                return state, None
            return state, self._file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None, None

    def _set(self, text: str) -> None:
        self._metadata = (("authorization", f"{_SCHEME}{text}"),)

    def __repr__(self) -> str:
        return f"Token({self.source})"
