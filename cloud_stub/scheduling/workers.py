"""Threads that models run in, apart from the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

_Task: TypeAlias = tuple[Callable[[], Any], Callable[[Any], None]]


class Workers:
    """Threads that take work in order; started when there is some and none of them is free.

    Not a `ThreadPoolExecutor`: nobody here would wait for its futures, which cost more than the
    hand-over, and the interpreter would wait for ever for a thread whose model hangs; these are
    daemonic.

    Args:
        most: How many there may be.
        name: What they are called.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], Any], report: Callable[[Any], None]) -> None:
        """Have a thread do something and report what came of it; neither may raise.

        The thread counts as free before it reports: what the report sets off finds it, and not a
        second one, whose caches are cold.
        """
        with self._lock:
            self._pending += 1
            if self._pending > len(self._threads) and len(self._threads) < self._most:
                name = f"{self._name}-{len(self._threads)}"
                self._start(name)
        self._queue.put((work, report))

    def _start(self, name: str) -> None:
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more: those that there are go on
            if not self._threads:
                self._pending -= 1
                raise
        else:
            self._threads.append(thread)

    def close(self) -> None:
        """Let the threads end after what they are doing; what waits is dropped."""
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
