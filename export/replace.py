"""Puts a folder in another's place in one step."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_folder(path: Path, fresh: Path) -> None:
    """Move `fresh` to `path`; what was there stands at `fresh` afterwards.

    On Linux the two are exchanged in one step, so that a kill at any moment leaves either of them
    whole at `path`. Elsewhere there is a moment without any.

    Raises:
        OSError: They could not be moved; `path` is as it was.
    """
    if not path.exists():
        fresh.rename(path)
    elif not exchange(path, fresh):
        move_aside(path, fresh)


def move_aside(path: Path, fresh: Path) -> None:
    """Let the two change places by renaming; an error or Ctrl-C puts `path` back."""
    aside = fresh.with_name(f"{fresh.name}-old")
    path.rename(aside)
    try:
        fresh.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    aside.rename(fresh)


def exchange(one: Path, other: Path) -> bool:
    """Return whether the system exchanged the two; not every system or file system can."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
