"""Limits what a packed file of data may unpack to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from train.errors import DataError

MOST_BYTES: Final = 2**30
_MOST_TIMES: Final = 16


def most_unpacked(path: Path) -> int:
    """Return the bytes that a file may unpack to: 1 GiB, or 16 times its size if that is more."""
    return max(MOST_BYTES, _MOST_TIMES * path.stat().st_size)


def require_unpacked(path: Path, size: int) -> None:
    """Raise a `DataError` for a file that unpacks to more than it may."""
    if size > (most := most_unpacked(path)):
        raise DataError(
            f"expected at most {most} bytes in {path} once it is unpacked, it has {size} or more: "
            "split the file"
        )
