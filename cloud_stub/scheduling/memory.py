"""How much the calls in the server may hold together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cloud_stub.errors import OverloadError

MIB: Final = 1 << 20


class MemoryBudget:
    """Counts the bytes of messages and decoded pictures; used from one event loop alone.

    A queue bounded by calls alone would let a few clients with large pictures fill the memory.

    Args:
        limit: Bytes that all calls may hold.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes that the calls hold now."""
        return self._held

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count bytes while the block runs.

        Raises:
            OverloadError: They are too many beside those of the other calls.
        """
        if size > self._limit:
            raise OverloadError(
                f"the call would hold {size / MIB:.1f} MiB, the server's limit for all calls is "
                f"{self._limit // MIB}: send less at once"
            )
        if self._held + size > self._limit:
            raise OverloadError(
                f"the calls in the server hold {self._held // MIB} MiB, {size / MIB:.1f} more are "
                f"over its limit of {self._limit // MIB}: try again later"
            )
        self._held += size
        try:
            yield
        finally:
            self._held -= size
