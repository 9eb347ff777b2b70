"""How much the calls in the server may hold together."""

from __future__ import annotations

import ctypes
from typing import Final

from cloud_stub.errors import OverloadError

MIB: Final = 1 << 20
_PUSHBACK_S: Final = 0.1
_TRIM_THRESHOLD: Final = -1  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 256 * MIB


def keep_freed() -> None:
    """Have the allocator keep what large messages leave, up to 256 MiB, for the next ones.

    glibc gives blocks of such sizes back to the system at once, and gets them again, page by page,
    with the next call: 0.3 ms for 600 KB. Other allocators are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 * MIB)  # the greatest it takes
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


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

    def take(self, size: int) -> int:
        """Count bytes, to be given back with `release`; returns their number.

        Raises:
            OverloadError: They are too many beside those of the other calls.
        """
        if size > self._limit:
            raise OverloadError(
                f"expected a call of at most {self._limit // MIB} MiB, got {size / MIB:.1f}: send "
                "less at once"
            )
        if self._held + size > self._limit:
            raise OverloadError(
                f"the calls in the server hold {self._held // MIB} MiB, {size / MIB:.1f} more are "
                f"over its limit of {self._limit // MIB}: try again later",
                pushback_s=_PUSHBACK_S,
            )
        self._held += size
        return size

    def release(self, size: int) -> None:
        """Give bytes back."""
        self._held -= size
