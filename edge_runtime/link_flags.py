"""The flags of a command that say how its link to the cloud is protected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli import field
from edge_runtime.errors import SettingError

if TYPE_CHECKING:
    from edge_runtime.cloud.security import Security

_NEED_TLS = ("ca", "certificate", "key", "token_file", "token_env", "server_name")


@dataclass(frozen=True, kw_only=True)
class LinkFlags:
    """What a command with a `--cloud` inherits; it calls `check_link` when it is created."""

    tls: bool = field("speak TLS to the cloud", default=False)
    ca: Path | None = field(
        "PEM file of the authorities that may vouch for the cloud, instead of the system's",
        default=None,
    )
    certificate: Path | None = field("PEM file of the client certificate", default=None)
    key: Path | None = field("PEM file of its key", default=None)
    token_file: Path | None = field("file that holds the bearer token", default=None)
    token_env: str | None = field("environment variable that holds the bearer token", default=None)
    server_name: str | None = field(
        "name in the cloud's certificate, where the address has another", default=None
    )
    allow_plaintext: bool = field("send inputs unencrypted to another machine", default=False)

    def check_link(self, *, has_cloud: bool) -> None:
        """Refuse flags that contradict one another, or that nothing would read.

        Raises:
            SettingError: They do.
        """
        given = [f"--{name.replace('_', '-')}" for name in _NEED_TLS if getattr(self, name)]
        if given and not self.tls:
            raise SettingError(
                f"expected --tls beside {given[0]}, got none: in plaintext there is neither "
                "certificate nor token"
            )
        if self.tls and self.allow_plaintext:
            raise SettingError("expected --tls or --allow-plaintext, got both: give one of them")
        if not has_cloud and (self.tls or self.allow_plaintext):
            flag = "--tls" if self.tls else "--allow-plaintext"
            raise SettingError(f"expected --cloud beside {flag}, got none: name the server")
        if self.tls:
            self.security()  # checks itself

    def security(self) -> Security | None:
        """Return the protection that the flags ask for, None for plaintext."""
        if not self.tls:
            return None
        from edge_runtime.cloud.security import Security

        return Security(**{name: getattr(self, name) for name in _NEED_TLS})

    def link_options(self) -> dict[str, Any]:
        """Return the flags as `Cascade.open` and `CloudModel.open` take them."""
        return {"security": self.security(), "allow_plaintext": self.allow_plaintext}
