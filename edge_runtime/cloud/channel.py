"""Opens gRPC channels: sizes, retries, reconnects."""

from __future__ import annotations

import json
from typing import Final

import grpc

from edge_runtime.wire import messages as pb
from edge_runtime.wire.address import is_loopback, join_address

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
