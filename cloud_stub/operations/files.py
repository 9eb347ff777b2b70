"""Tells whether a file that the server read has changed since."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

FileState: TypeAlias = tuple[int, int, int]


def file_state(file: Path | None) -> FileState | None:
    """Return what changes whenever a file does, its replacement by another included.

    Returns:
        None where there is no file, or it cannot be told.
    """
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
