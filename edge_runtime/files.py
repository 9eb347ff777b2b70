"""Tells whether a file that the server read has changed since."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from cloud_stub.errors import DeployError

# MERGEDOC cloud_stub/deploy/folder.py: 'Writes a folder whole or not at all.'

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


def require_free(folder: Path, *, mark: str, overwrite: bool) -> None:
    """Refuse, before any work, a folder that may not be written.

    Args:
        folder: What is to be written.
        mark: A file that shows an older one of its kind, which may be replaced.
        overwrite: Whether it was asked for.

    Raises:
        DeployError: Something else is there, or it was not asked for.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise DeployError(
            f"expected a folder or nothing at {folder}, a file is there: name another"
        )
    if not (folder / mark).is_file():
        raise DeployError(
            f"expected nothing at {folder} or a folder with {mark}, got other things: name another"
        )
    if not overwrite:
        raise DeployError(f"expected nothing at {folder} yet: --overwrite replaces it")


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends without an error.

    Where one is replaced there is a moment without any; an error or Ctrl-C puts the old one back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = _scratch_place(folder.absolute())
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{folder.name}-") as scratch:
        fresh, old = Path(scratch) / "fresh", Path(scratch) / "old"
        fresh.mkdir()
        yield fresh
        if not folder.exists():
            fresh.rename(folder)
            return
        folder.rename(old)
        try:
            fresh.rename(folder)
        except BaseException:
            old.rename(folder)
            raise


def _scratch_place(folder: Path) -> Path:
    """Return where to write at first: beside the repository, not in it, if that can be renamed.

    An engine takes every folder in its repository for a model, and one that a kill left behind
    would keep it from starting.
    """
    repository = folder.parent
    beside = repository.parent
    is_same = beside.stat().st_dev == repository.stat().st_dev
    return beside if is_same and os.access(beside, os.W_OK | os.X_OK) else repository
