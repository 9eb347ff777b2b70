"""Files and folders that appear whole or not at all, and the one-line form of an error."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from edge_runtime.errors import GatekeeperError

FileState: TypeAlias = tuple[int, int, int]
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def one_line(error: object, limit: int | None = None) -> str:
    """Return the text of an error on one line, cut to `limit` characters where one is given."""
    return " ".join(str(error).split())[:limit]


def write_atomically(path: Path, content: str | bytes | Callable[[Path], None]) -> None:
    """Write a file so that readers, and a kill at any moment, see the old or the new one whole.

    Args:
        path: The file; its folder is created where it is missing.
        content: What to write, text as UTF-8; or a function that writes the file it is given,
            whose name ends like that of `path`.

    Raises:
        OSError: The file could not be written; an older one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def require_free(
    folder: Path, *, overwrite: bool, error: type[GatekeeperError], mark: str | None = None
) -> None:
    """Refuse, before any work, an output folder that is taken.

    Args:
        folder: The folder to be written.
        overwrite: Whether an older result may be replaced.
        error: Class of the error to raise.
        mark: Name of a file that every folder of this kind holds; only such a folder is replaced.

    Raises:
        GatekeeperError: As `error`: a file is there, or a folder that may not be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise error(f"expected a folder or nothing at {folder}, a file is there: name another")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise error(f"expected nothing at {folder} yet: --overwrite replaces it")
    if mark is not None and not (folder / mark).is_file():
        raise error(
            f"expected nothing at {folder} or a folder with {mark}, got other things: name another"
        )


@contextlib.contextmanager
def fresh_folder(folder: Path, *, scratch: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends without an error.

    Args:
        folder: The folder to write; its parents are created.
        scratch: Where to write at first, on the same file system; beside `folder` by default.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = scratch or folder.parent
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{folder.name}-") as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        yield fresh
        replace_folder(folder, fresh)


def replace_folder(path: Path, fresh: Path) -> None:
    """Move `fresh` to `path`; the folder that was there stands at `fresh` afterwards.

    On Linux the two are exchanged in one step, so that a kill at any moment leaves one of them
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


def place(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def file_state(file: Path | None) -> FileState | None:
    """Return a value that changes whenever a file does, its replacement by another included.

    Returns:
        None where there is no file, or it cannot be read.
    """
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
