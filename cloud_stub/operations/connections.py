"""How long a connection may stay, and how it is told from a dead one.

Made for clients that lose the network without a word: phones, vehicles, machines in the field.
"""

from __future__ import annotations

from typing import Final

HANDSHAKE_MS: Final = 20_000
PING_EVERY_MS: Final = 60_000
IDLE_MS: Final = 600_000
AGE_MS: Final = 3_600_000

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # Otherwise a second server on the port takes half of the calls in silence.
    ("grpc.so_reuseport", 0),
    # A connection that says nothing, or its first words drop by drop, is closed after this and not
    # after two minutes, which is gRPC's own limit: it costs a socket all the while. gRPC's clients
    # give up after as long.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    # A client that lost its network closes nothing. A ping a minute finds it out; more often would
    # keep the radio of one that is alive awake.
    ("grpc.keepalive_time_ms", PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Both ways: the server pings between calls too, and clients may.
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients that ping to hold the path through a router open must not be cut off for it; gRPC
    # would after the third ping within ten minutes.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # A client that has not called for this long is let go; its next call connects again.
    ("grpc.max_connection_idle_ms", IDLE_MS),
)

SECURED_OPTIONS: Final = (
    # A certificate is looked at when a connection begins. So that a client whose certificate has
    # expired, or whose authority is trusted no longer, goes within the hour. Calls under way are
    # finished, and the next one connects again by itself.
    ("grpc.max_connection_age_ms", AGE_MS),
)
"""Beside the others, where the server speaks TLS."""
