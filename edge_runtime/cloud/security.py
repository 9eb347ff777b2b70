"""Protection of the link to the cloud: TLS, a client certificate, a bearer token.

    security = Security(ca=Path("ca.pem"), token_file=Path("/run/secrets/token"))
    cascade = Cascade.open("bundle", cloud="large.example.org:8001", security=security)

A `Security` always means TLS. A token without TLS cannot be configured.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import re
import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from edge_runtime.cloud import certificates
from edge_runtime.cloud.certificates import Validity
from edge_runtime.cloud.redaction import hold
from edge_runtime.errors import SettingError, UseError
from edge_runtime.files import FileState, file_state

if TYPE_CHECKING:
    import grpc

_LOG: Final = logging.getLogger(__name__)
_GRPC_ROOTS: Final = "_cython/_credentials/roots.pem"

TOKEN_FORM: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""Form of a bearer token (RFC 6750, section 2.1); any other would break its header."""
_SCHEME: Final = "Bearer "


@dataclass(frozen=True, kw_only=True)
class Security:
    """TLS to the cloud; secrets are named by file or environment variable, never held here.

    Attributes:
        ca: PEM file of the trusted certificate authorities; the system's if None.
        certificate: PEM file of the client certificate with its chain, for mutual TLS.
        key: PEM file of its private key, not encrypted.
        token_file: File that holds the bearer token; read again when it changes.
        token_env: Environment variable that holds the bearer token instead.
        server_name: Expected name in the server's certificate; that of the address if None.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    token_file: Path | str | None = None
    token_env: str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            half = "certificate needs key" if self.key is None else "key needs certificate"
            raise SettingError(f"{half}: give both or neither")
        if self.token_file is not None and self.token_env is not None:
            raise SettingError(
                "expected the token from one place, got token_file and token_env: give one of them"
            )

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files and return gRPC's credentials, or raise a `SettingError`."""
        import grpc  # here, so that `doctor` can report that it is missing

        if self.ca is not None:
            self._load_authorities(_context())  # gRPC ignores a file without certificates
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(self.roots())
        self._load_pair(_context())
        return grpc.ssl_channel_credentials(
            self.roots(),
            certificates.read_file(self.key, "key"),
            certificates.read_file(self.certificate, "certificate"),
        )

    def token(self) -> Token | None:
        """Return the bearer token or None; raise a `SettingError` if it is missing or malformed."""
        if self.token_file is None and self.token_env is None:
            return None
        return Token(None if self.token_file is None else Path(self.token_file), self.token_env)

    def roots(self) -> bytes | None:
        """Return the trusted authorities as PEM; with None gRPC uses its own."""
        return system_roots() if self.ca is None else certificates.read_file(self.ca, "ca")

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context of the standard library with the checks and errors of `credentials`."""
        context = _context()
        self._load_authorities(context)
        if self.certificate is not None:
            self._load_pair(context)
        return context

    def client_validity(self) -> Validity | None:
        """Return the validity of the client certificate; None without one."""
        return None if self.certificate is None else certificates.validity_of(self.certificate)

    def exposed_files(self) -> list[str]:
        """Return the secret files that other users of this machine may read."""
        return certificates.exposed_files((self.key, self.token_file))

    def warn_of_exposed_files(self) -> None:
        """Log a warning for each secret file that others may read.

        They are not refused: containers mount their secrets this way and have no other users.
        """
        for file in self.exposed_files():
            _LOG.warning("%s", exposed_advice(file))

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        source = self.ca or "the store of the system"
        certificates.load_authorities(context, self.roots() or b"", source)

    def _load_pair(self, context: ssl.SSLContext) -> None:
        certificates.load_pair(context, self.certificate or "", self.key or "")


def exposed_advice(file: str) -> str:
    """Return the message about a secret file that others may read."""
    return f"expected {file} to be readable by its owner alone, got more readers: chmod 600 {file}"


def system_roots() -> bytes | None:
    """Return the authorities that this machine trusts, as PEM.

    gRPC has a list of its own and ignores authorities that an administrator added to the system's.
    Its list is the last resort, for systems that do not store theirs in files.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile).read_bytes()
    if paths.capath:
        files = sorted(Path(paths.capath).glob("*.[0-9]"))
        if files:
            return b"\n".join(file.read_bytes() for file in files)
    context = ssl.create_default_context()  # reads the store of Windows
    roots = [ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True)]
    if roots:
        return "\n".join(roots).encode()
    return pkgutil.get_data("grpc", _GRPC_ROOTS)


def utc_now() -> datetime:
    """Return the time of this device's clock."""
    return datetime.now(timezone.utc)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    return context


class Token:
    """A bearer token that may change while the program runs; no `repr`, error or pickle has it.

    Args:
        file: File that holds the token and nothing else but white space.
        env: Environment variable that holds the token, if there is no file.

    Raises:
        SettingError: The token is missing or malformed.
    """

    def __init__(self, file: Path | None, env: str | None) -> None:
        self._file, self._env = file, env
        self._state: FileState | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._state, text = self._read()
        if text is None or not TOKEN_FORM.fullmatch(text):
            content = "nothing" if not text else "something else"
            raise SettingError(
                f"expected a bearer token in {self.source}, got {content}: write the token there, "
                "and nothing else"
            )
        self._set(text)

    @property
    def source(self) -> str:
        """The file or environment variable, for messages."""
        return str(self._file) if self._file else f"the environment variable {self._env}"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the token as a call's metadata; checks the file's date each time."""
        if self._file is None:
            return self._metadata
        # A file may be missing or empty while it is replaced: the old token serves until then.
        state, text = self._read()
        if text is not None and TOKEN_FORM.fullmatch(text):
            self._set(text)
            self._state = state
        return self._metadata

    def _read(self) -> tuple[FileState | None, str | None]:
        """Return the file's state and, if it is new, the token."""
        if self._file is None:
            text = os.environ.get(self._env or "")
            return None, None if text is None else text.strip()
        state = file_state(self._file)
        if state is None or state == self._state:
            return state, None
        try:
            return state, self._file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None, None

    def _set(self, text: str) -> None:
        hold(text)
        self._metadata = (("authorization", f"{_SCHEME}{text}"),)

    def __repr__(self) -> str:
        return f"Token({self.source})"

    def __reduce__(self) -> NoReturn:
        raise UseError(
            "expected no copy or pickle of a Token, which would carry the secret: open it from its "
            "Security where it is used"
        )
