"""The link to one server: opens connections, adds the token to calls, translates failures."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc

from edge_runtime.cloud.failures import translate
from edge_runtime.errors import (
    CloudError,
    CloudMisconfiguredError,
    CloudUnavailableError,
    SettingError,
)
from edge_runtime.wire import messages as pb
from edge_runtime.wire.address import is_loopback, join_address, split_address

if TYPE_CHECKING:
    from edge_runtime.cloud.security import Security

# Modules that inspect certificates are loaded only when one may be at fault: `ssl` costs 3 MB.
_LOG: Final = logging.getLogger(__name__)
Metadata = tuple[tuple[str, str], ...]

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                # No "timeout" here: one shorter than the call's own would end the call at once.
                "name": [{"service": pb.SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_OPTIONS: Final[tuple[tuple[str, str | int], ...]] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    # Larger requests are silently not retried; the default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    # A server that comes back is noticed within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Otherwise channels to one address share a connection, and a new one would inherit a dead one.
    ("grpc.use_local_subchannel_pool", 1),
)
# By itself gRPC obeys http_proxy, which is meant for the web, and GRPC_ADDRESS_HTTP_PROXY.
_NO_PROXY: Final[tuple[tuple[str, str | int], ...]] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
)


class Link:
    """Opens channels to one server with their protection.

    Args:
        address: `HOST:PORT`.
        security: TLS with its certificates and token; None is plaintext.
        allow_plaintext: Whether plaintext may leave this machine.
        use_proxy: Whether to connect through the proxy that the environment names.

    Raises:
        SettingError: The address is malformed, or another machine's without protection; a file of
            `security` is missing or malformed.
    """

    def __init__(
        self,
        address: str,
        security: Security | None,
        *,
        allow_plaintext: bool,
        use_proxy: bool = False,
    ) -> None:
        self.address = address
        self._use_proxy = use_proxy
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
        """Return a new channel, with the current certificates of the files."""
        if self._security is None:
            return open_channel(self._host, self._port, use_proxy=self._use_proxy)
        try:
            self._credentials = self._security.credentials()
        except (SettingError, OSError) as error:
            _LOG.warning("the previous certificates stay in use: %s", error)
        return open_channel(
            self._host,
            self._port,
            self._credentials,
            self._security.server_name,
            use_proxy=self._use_proxy,
        )

    def metadata(self) -> Metadata | None:
        """Return a call's metadata: the current token.

        Plain metadata, as gRPC's call credentials cost 0.25 ms per call. A token implies TLS.
        """
        return None if self._token is None else self._token.metadata()

    def translate(self, error: Any, timeout_s: float) -> CloudError:
        """Return the `CloudError` of a `grpc.RpcError`."""
        failure = translate(error, self.address, timeout_s)
        if self._security is None or not isinstance(failure, CloudUnavailableError):
            return failure
        from edge_runtime.cloud.diagnosis import client_mistake

        # A server that refuses a client certificate just hangs up, even years after `open`.
        try:
            mistake = client_mistake(self._security)
        except SettingError:
            return failure
        return CloudMisconfiguredError(f"{self.address}: {mistake}") if mistake else failure

    def probe(self, check: Callable[[float], object], limit_s: float) -> None:
        """Check that the protection of the link fits the server, if the server is up.

        Args:
            check: Function that calls the server within the given seconds.
            limit_s: Time limit of that call and of each answer in the diagnosis.

        Raises:
            CloudMisconfiguredError: Certificate, token or protection is wrong.
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
            return  # the server is up, or may come up: the first calls will show


def open_channel(
    host: str,
    port: int,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
    *,
    use_proxy: bool = False,
) -> grpc.Channel:
    """Return a channel that connects on first use; without credentials it is in plaintext."""
    is_direct = not use_proxy or is_loopback(host)
    options = [*_OPTIONS, *(_NO_PROXY if is_direct else ())]
    target = join_address(host, port)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.secure_channel(target, credentials, options)


class Connection:
    """One connection to a server, with the number of its calls in flight."""

    __slots__ = ("calls", "channel", "infer")

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        # Without (de)serializers gRPC passes bytes through; they are built elsewhere in one copy.
        self.infer = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        self.calls = 0


class Connections:
    """Connections to one server; new calls use the latest one; safe for threads.

    An overloaded server may be found again by several probes, each over a new connection, while it
    still works on calls of an older one: that one stays open until its last call has ended.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._lock = threading.Lock()
        self._latest = Connection(channel)
        self._old: list[Connection] = []
        self._is_closed = False

    @property
    def channel(self) -> grpc.Channel:
        """The channel of new calls."""
        return self._latest.channel

    def acquire(self) -> Connection:
        """Return the connection for a call, which must `release` it."""
        with self._lock:
            connection = self._latest
            connection.calls += 1
        return connection

    def release(self, connection: Connection) -> None:
        """Count the end of a call, and close an old connection after its last one."""
        with self._lock:
            connection.calls -= 1
            is_over = not connection.calls and connection in self._old
            if is_over:
                self._old.remove(connection)
        if is_over:
            connection.channel.close()

    def replace(self, channel: grpc.Channel) -> bool:
        """Use another channel for new calls; return False once everything is closed."""
        with self._lock:
            if self._is_closed:
                return False
            previous, self._latest = self._latest, Connection(channel)
            if previous.calls:
                self._old.append(previous)
                return True
        previous.channel.close()
        return True

    def close(self) -> None:
        """Close all connections; calls in flight end."""
        with self._lock:
            self._is_closed = True
            connections, self._old = [self._latest, *self._old], []
        for connection in connections:
            connection.channel.close()
