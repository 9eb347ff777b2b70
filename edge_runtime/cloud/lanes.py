"""The connection that calls take, and those before it, which stay until their last call ended."""

from __future__ import annotations

import threading

import grpc

from edge_runtime.wire import messages as pb


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
