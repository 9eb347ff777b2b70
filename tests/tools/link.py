"""A link between client and server on loopback whose faults are switched while it runs.

    with Link(port, seed=0) as link:  # clients connect to 127.0.0.1:link.port
        link.stall(share=0.2, pause_s=0.2)
        link.heal()

Bytes travel in chunks as the kernel hands them over. Each connection and direction has a random
generator of its own, so a seed gives the same stalls to the same chunks whatever else is going on.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

Way = Literal["up", "down"]  # to the server, from the server
_CHUNK = 16 * 1024


@dataclass(frozen=True)
class Faults:
    """What is wrong with the link; nothing by default.

    Attributes:
        delay_s: Added to every chunk, each way.
        held: Ways on which nothing moves until the fault is over; then it arrives, late.
        lost: Ways on which bytes vanish; connections that lost some stay dead after the fault.
        stall_share, stall_s: So many of the chunks wait so long.
        truncate_at: A connection is closed after so many bytes from the server.
        corrupt_at, corrupt_bytes: From this byte of a connection's replies so many are inverted.
        cut: No connections at all.
    """

    delay_s: float = 0.0
    held: frozenset[Way] = frozenset()
    lost: frozenset[Way] = frozenset()
    stall_share: float = 0.0
    stall_s: float = 0.0
    truncate_at: int | None = None
    corrupt_at: int | None = None
    corrupt_bytes: int = 1
    cut: bool = False


class Link:
    """A TCP proxy on a port of its own.

    Args:
        target: The server's port on 127.0.0.1.
        seed: Of the stalls.

    Attributes:
        port: Where clients connect.
        connections: How many there have been.
    """

    def __init__(self, target: int, *, seed: int = 0) -> None:
        self.connections = 0
        self._target = target
        self._seed = seed
        self._faults = Faults()
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_over = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._set(Faults(cut=True))
        for thread in self._threads:
            thread.join()

    def heal(self) -> None:
        self._set(Faults())

    def delay(self, delay_s: float) -> None:
        self._set(Faults(delay_s=delay_s))

    def hold(self, *ways: Way) -> None:
        self._set(Faults(held=frozenset(ways)))

    def lose(self, *ways: Way) -> None:
        self._set(Faults(lost=frozenset(ways)))

    def stall(self, *, share: float, pause_s: float) -> None:
        self._set(Faults(stall_share=share, stall_s=pause_s))

    def truncate(self, at: int) -> None:
        self._set(Faults(truncate_at=at))

    def corrupt(self, at: int, count: int = 1) -> None:
        self._set(Faults(corrupt_at=at, corrupt_bytes=count))

    def cut(self) -> None:
        self._set(Faults(cut=True))

    def _set(self, faults: Faults) -> None:
        with self._changed:
            self._faults = faults
            if faults.cut:
                # As a pulled plug that the kernel notices: refused, not silent.
                for sock in (*self._open, self._listener):
                    _shut(sock)
                self._open.clear()
            elif self._listener.fileno() == -1:
                self._listener = socket.create_server(("127.0.0.1", self.port))
                self._start(self._accept, self._listener)
            self._changed.notify_all()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed by a cut
            while True:
                client, _ = listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # what the client sees of a server that is gone
            _shut(client)
            return
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            if self._faults.cut:
                _shut(client)
                _shut(server)
                return
            number = self.connections
            self.connections += 1
            self._open |= {client, server}
        self._start(self._carry, client, server, "up", number)
        self._start(self._carry, server, client, "down", number)

    def _carry(self, source: socket.socket, sink: socket.socket, way: Way, number: int) -> None:
        chance = random.Random(f"{self._seed} {number} {way}")
        carried, is_dead = 0, False
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                faults = self._wait(way, chance)
                is_dead |= way in faults.lost
                if is_dead:
                    continue
                if way == "down":
                    chunk = _altered(chunk, carried, faults)
                sink.sendall(chunk)
                carried += len(chunk)
                if way == "down" and carried >= (faults.truncate_at or math.inf):
                    break
        with self._changed:
            self._open -= {source, sink}
        _shut(source)
        _shut(sink)

    def _wait(self, way: Way, chance: random.Random) -> Faults:
        """Wait as long as the link is slow, and return what else is wrong with it."""
        pause_s = self._faults.delay_s
        if chance.random() < self._faults.stall_share:
            pause_s += self._faults.stall_s
        with self._changed:
            if pause_s:
                self._changed.wait_for(lambda: self._faults.cut, pause_s)
            self._changed.wait_for(lambda: way not in self._faults.held or self._faults.cut)
            return self._faults


def _altered(chunk: bytes, carried: int, faults: Faults) -> bytes:
    if faults.truncate_at is not None:
        chunk = chunk[: max(0, faults.truncate_at - carried)]
    if faults.corrupt_at is not None:
        first = max(0, faults.corrupt_at - carried)
        last = max(0, faults.corrupt_at + faults.corrupt_bytes - carried)
        inverted = bytes(byte ^ 0xFF for byte in chunk[first:last])
        chunk = chunk[:first] + inverted + chunk[last:]
    return chunk


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
