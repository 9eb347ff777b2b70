"""The threads of a cascade: those of submitted calls, and those that a soft deadline leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from edge_runtime.errors import SettingError, UseError

_T = TypeVar("_T")
CLOSED = "expected an open cascade, this one is closed: open another"


class Pools:
    """Pools of threads that start on their first call; safe to share between threads.

    Args:
        concurrency: Number of calls of each pool that run at once.

    Raises:
        SettingError: The concurrency is below 1.
    """

    def __init__(self, concurrency: int) -> None:
        if concurrency < 1:
            raise SettingError(f"expected a concurrency of at least 1, got {concurrency}")
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._is_closed = False
        # As many calls as run may wait; further callers block instead of filling the memory.
        self._room = threading.Semaphore(2 * concurrency)

    def run(self, name: str, call: Callable[[], _T]) -> Future[_T]:
        """Run a call in a pool's thread, or raise a `UseError` once the pools are closed."""
        with self._lock:
            if self._is_closed:
                raise UseError(CLOSED)
            if name not in self._pools:
                self._pools[name] = ThreadPoolExecutor(
                    self._concurrency, thread_name_prefix=f"cascade-{name}"
                )
            return self._pools[name].submit(call)

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Run a caller's call; blocks while many others are in progress."""
        self._room.acquire()
        try:
            future = self.run("submit", call)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def finish(self) -> None:
        """Finish the submitted calls; further ones are refused only by the caller."""
        with self._lock:
            submitted = self._pools.pop("submit", None)
        if submitted is not None:
            submitted.shutdown(wait=True)

    def close(self) -> None:
        """Refuse further calls, and wait for those in progress."""
        with self._lock:
            self._is_closed = True
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.shutdown(wait=True)
