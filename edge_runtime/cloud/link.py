"""One server's link: how it is opened, what each call carries, how its failures read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc

from edge_runtime.cloud.channel import open_channel
from edge_runtime.cloud.failures import translate
from edge_runtime.errors import (
    CloudError,
    CloudMisconfiguredError,
    CloudUnavailableError,
    SettingError,
)
from edge_runtime.wire.address import is_loopback, split_address

if TYPE_CHECKING:
    from edge_runtime.cloud.security import Security

# What looks into certificates is loaded where one may be at fault: `ssl` costs 3 MB.
_LOG: Final = logging.getLogger(__name__)
Metadata = tuple[tuple[str, str], ...]


class Link:
    """Opens channels to one server and knows how they are protected.

    Args:
        address: `HOST:PORT`.
        security: TLS and what goes with it; None is plaintext.
        allow_plaintext: Whether plaintext may leave this machine.

    Raises:
        SettingError: The address is malformed, or another machine's without protection; a file of
            `security` is missing or malformed.
    """

    def __init__(self, address: str, security: Security | None, *, allow_plaintext: bool) -> None:
        self.address = address
        self._host, self._port = split_address(address)
        self._security = security
        self._credentials: grpc.ChannelCredentials | None = None
        self._token = None
        if security is not None:
            self._credentials = security.credentials()
            self._token = security.token()
            security.warn_of_exposed_files()
        elif not (allow_plaintext or is_loopback(self._host)):
            raise SettingError(
                f"{address} is another machine, and inputs would travel there unencrypted: pass "
                "security=Security(...) (--tls), tunnel the port to localhost, or pass "
                "allow_plaintext=True (--allow-plaintext) on a network you trust"
            )

    def connect(self) -> grpc.Channel:
        """Return a new channel, with the certificates that the files hold now."""
        if self._security is None:
            return open_channel(self._host, self._port)
        try:
            self._credentials = self._security.credentials()
        except (SettingError, OSError) as error:
            _LOG.warning("the certificates read before stay in use: %s", error)
        return open_channel(self._host, self._port, self._credentials, self._security.server_name)

    def metadata(self) -> Metadata | None:
        """Return what a call carries beside its message: the token of the moment.

        As plain metadata: gRPC's call credentials cost 0.25 ms a call. There is a token only where
        there is TLS.
        """
        return None if self._token is None else self._token.metadata()

    def translate(self, error: Any, timeout_s: float) -> CloudError:
        """Return the `CloudError` of a `grpc.RpcError`."""
        hidden = str if self._token is None else self._token.hide_in
        failure = translate(error, self.address, timeout_s, hidden)
        if self._security is None or not isinstance(failure, CloudUnavailableError):
            return failure
        from edge_runtime.cloud.diagnosis import client_mistake

        # A server that does not accept a client certificate just hangs up, also years after `open`.
        try:
            mistake = client_mistake(self._security)
        except SettingError:
            return failure
        return CloudMisconfiguredError(f"{self.address}: {mistake}") if mistake else failure

    def probe(self, check: Callable[[float], object], limit_s: float) -> None:
        """Raise where the server is there but the protection of the link does not fit.

        Args:
            check: Calls the server, within the seconds it is given.
            limit_s: How long that and each answer of the diagnosis may take.

        Raises:
            CloudMisconfiguredError: Certificates, token or protection do not fit.
        """
        try:
            check(limit_s)
        except (CloudMisconfiguredError, CloudUnavailableError) as error:
            from edge_runtime.cloud.diagnosis import find_mistake

            mistake = find_mistake(self._host, self._port, self._security, limit_s)
            if mistake is not None:
                raise CloudMisconfiguredError(f"{self.address}: {mistake}") from None
            if isinstance(error, CloudMisconfiguredError):
                raise
        except CloudError:
            return  # it is there, or may come: the calls will show
