"""One server's link: how it is opened, what each call carries, how its failures read."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import grpc

# MERGEDOC edge_runtime/cloud/channel.py: 'Opens gRPC channels: sizes, retries, reconnects.'
# MERGEDOC edge_runtime/cloud/lanes.py: 'The connection that calls take, and those before it, which stay until their last call ended.'
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

# What looks into certificates is loaded where one may be at fault: `ssl` costs 3 MB.
_LOG: Final = logging.getLogger(__name__)
Metadata = tuple[tuple[str, str], ...]

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                # No "timeout" here: one shorter than the call's own ends the call at once.
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
    # Requests over this size are silently not retried; the default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    # A server that comes back is noticed within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Channels to one address share a connection otherwise, and a new one would inherit a dead one.
    ("grpc.use_local_subchannel_pool", 1),
)


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


def open_channel(
    host: str,
    port: int,
    credentials: grpc.ChannelCredentials | None = None,
    server_name: str | None = None,
) -> grpc.Channel:
    """Return a channel that connects on first use; without credentials it is in plaintext."""
    # An http_proxy meant for the web must not carry what stays on this machine.
    options: list[tuple[str, str | int]] = [*_OPTIONS]
    options.append(("grpc.enable_http_proxy", int(not is_loopback(host))))
    target = join_address(host, port)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.secure_channel(target, credentials, options)


class Lane:
    """One connection.

    Args:
        channel: To the server.

    Attributes:
        infer: Its ModelInfer.
        calls: How many are on it.
    """

    __slots__ = ("calls", "channel", "infer")

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        # Without (de)serializers gRPC hands bytes through: they are built in one copy elsewhere.
        self.infer = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
        self.calls = 0


class Lanes:
    """Connections to one server, of which new calls take the last; safe for threads.

    A server that is overloaded is found back by probe after probe, each over a new connection,
    while it still works on calls of the first: they are not cut off.

    Args:
        channel: The first.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._lock = threading.Lock()
        self._last = Lane(channel)
        self._old: list[Lane] = []
        self._is_closed = False

    @property
    def channel(self) -> grpc.Channel:
        """The connection that new calls take."""
        return self._last.channel

    def enter(self) -> Lane:
        """Return the connection for a call, which has to `leave` it."""
        with self._lock:
            lane = self._last
            lane.calls += 1
        return lane

    def leave(self, lane: Lane) -> None:
        """Count a call that has ended."""
        with self._lock:
            lane.calls -= 1
            is_over = not lane.calls and lane in self._old
            if is_over:
                self._old.remove(lane)
        if is_over:
            lane.channel.close()

    def replace(self, channel: grpc.Channel) -> bool:
        """Have new calls take another connection; returns whether there are any to come."""
        with self._lock:
            if self._is_closed:
                return False
            before, self._last = self._last, Lane(channel)
            if before.calls:
                self._old.append(before)
                return True
        before.channel.close()
        return True

    def close(self) -> None:
        """Close all of them; calls in flight end."""
        with self._lock:
            self._is_closed = True
            lanes, self._old = [self._last, *self._old], []
        for lane in lanes:
            lane.channel.close()
