"""Threads that run models outside the event loop, and the memory that calls may hold."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from cloud_stub.errors import OverloadError

_Task: TypeAlias = tuple[Callable[[], Any], Callable[[Any], None]]

MIB: Final = 1 << 20
_PUSHBACK_S: Final = 0.1
_NICENESS: Final = 10
_TRIM_THRESHOLD: Final = (
    -1
)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_KEPT_BYTES: Final = 256 * MIB
_LARGE_BYTES: Final = 4 * MIB
_TRIM_AFTER_S: Final = 1.0
_TURN_S: Final = 0.001


class Workers:
    """Threads that take work in order; one is started when there is work and none is free.

    Not a `ThreadPoolExecutor`: nobody here would wait for its futures, which cost more than the
    hand-over, and at exit the interpreter would wait for ever for a thread with a hanging model.
    These threads are daemonic.

    Args:
        most: Most threads.
        name: Prefix of their names.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], Any], report: Callable[[Any], None]) -> None:
        """Have a thread call `work`, then `report` with its result; neither may raise.

        The thread counts as free before it reports, so that work which follows from the report
        finds it, and not a second thread with cold caches.
        """
        with self._lock:
            self._pending += 1
            if self._pending > len(self._threads) and len(self._threads) < self._most:
                self._start(f"{self._name}-{len(self._threads)}")
        self._queue.put((work, report))

    def _start(self, name: str) -> None:
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except (MemoryError, RuntimeError):  # the system has no more: the existing threads continue
            if not self._threads:
                self._pending -= 1
                raise
        else:
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads after their present work; work that is waiting is dropped."""
        while not self._queue.empty():
            self._queue.get()
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            work, report = task
            result = work()
            with self._lock:
                self._pending -= 1
            report(result)
            del task, work, report, result  # they hold inputs and answers, and the wait may be long


def give_way() -> None:
    """Have the calling thread leave the processor to the others, where threads have a priority."""
    if sys.platform == "linux":  # elsewhere it would be the process's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def take_short_turns() -> None:
    """Have Python threads take turns of 1 ms instead of 5 ms.

    A call is handed over between threads several times: beside a thread that reads a large call, it
    would wait for a whole turn each time.
    """
    sys.setswitchinterval(_TURN_S)


def keep_freed() -> None:
    """Have the allocator keep the memory of large messages, up to 256 MiB, for the next ones.

    glibc returns blocks of such sizes to the system at once and gets them back, page by page, with
    the next call: 0.3 ms for 600 KB. Other allocators are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # The ends of other arenas' heaps, up to 64 MiB each, are never given back.
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, 32 * MIB)  # the greatest value it accepts
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Give freed memory back to the system, which glibc does only at the end of a heap.

    Some small object always lies there. All allocations wait for the tens of milliseconds that it
    takes.
    """
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


class Trimmer:
    """Gives freed memory back once large calls have ceased; for one event loop.

    Not while large calls go on: they use the memory again.
    """

    def __init__(self) -> None:
        self._due_s = 0.0
        self._timer: asyncio.Handle | None = None

    def note(self, size: int) -> None:
        """Note that a call ended that held so many bytes."""
        if size >= _LARGE_BYTES:
            loop = asyncio.get_running_loop()
            self._due_s = loop.time() + _TRIM_AFTER_S
            if self._timer is None:
                self._timer = loop.call_at(self._due_s, self._start)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._due_s:
            self._timer = loop.call_at(self._due_s, self._start)
            return
        self._timer = None
        # In a thread: it visits all pages that were ever used.
        loop.run_in_executor(None, give_back)


class MemoryBudget:
    """Counts the bytes of messages and decoded pictures; for use from one event loop.

    With a limit on calls alone, a few clients with large pictures would fill the memory.

    Args:
        limit: Bytes that all calls together may hold.

    Attributes:
        held: Bytes that the calls hold now.
    """

    def __init__(self, limit: int) -> None:
        self.held = 0
        self._limit = limit

    def take(self, size: int) -> int:
        """Count bytes until they are given back with `release`; return their number.

        Raises:
            OverloadError: The limit does not allow them, alone or together with the other calls.
        """
        if size > self._limit:
            raise OverloadError(
                f"expected a call of at most {self._limit // MIB} MiB, got {size / MIB:.1f}: send "
                "less at once"
            )
        if self.held + size > self._limit:
            raise OverloadError(
                f"the calls in the server hold {self.held // MIB} MiB, and {size / MIB:.1f} more "
                f"would exceed its limit of {self._limit // MIB}: try again later",
                pushback_s=_PUSHBACK_S,
            )
        self.held += size
        return size

    def release(self, size: int) -> None:
        """Give bytes back."""
        self.held -= size
