"""Writes files and folders whole or not at all, and puts error texts on one line."""

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
"""Modification time in ns, size in bytes and inode of a file."""
SHOWN = "\n\t"
"""What a text of several lines may hold beside printable characters, for `clean`."""
_HIDDEN = frozenset({"__MACOSX", "@eaDir"})
"""Folders that macOS and network drives put among a user's; they hold no pictures of his."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def one_line(error: object, limit: int | None = None) -> str:
    """Return the text of an error on one line, cleaned and cut to `limit` characters if given."""
    return clean(" ".join(str(error).split()))[:limit]


def clean(text: str, keep: str = "") -> str:
    """Return foreign text with each character that is not printable as its escape sequence.

    Control characters, line separators, marks of writing direction, invisible characters and halves
    of surrogate pairs could otherwise steer a terminal, forge lines of a log or hide words.

    Args:
        text: The text.
        keep: Characters to leave as they are, e.g. line feeds of a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def is_hidden(path: Path) -> bool:
    """Return whether a file or folder was put among others by a system, such as `._cat.png`."""
    return path.name.startswith(".") or path.name in _HIDDEN


def files_under(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files under a folder that are not hidden, and the folders that cannot be read.

    Links to folders are followed, except to a folder that is read already, and to those that hold
    `folder` itself: links in a circle end there.
    """
    files: list[Path] = []
    closed: list[Path] = []
    seen = {_identity(parent) for parent in folder.resolve().parents}
    for root, folders, names in os.walk(
        folder, followlinks=True, onerror=lambda error: closed.append(Path(error.filename))
    ):
        here = Path(root)
        if _identity(here) in seen:
            folders.clear()
            continue
        seen.add(_identity(here))
        # Of a folder and a link to it, the folder gives its files their names.
        folders[:] = sorted(folders, key=lambda name: (Path(root, name).is_symlink(), name))
        folders[:] = [name for name in folders if not is_hidden(Path(name))]
        files += [path for name in names if not is_hidden(path := here / name)]
    return sorted(files), closed


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def write_atomically(path: Path, content: str | bytes | Callable[[Path], None]) -> None:
    """Write a file so that readers, and a kill at any moment, see the old or the new one whole.

    Args:
        path: The file; its folder is created where it is missing.
        content: Bytes, text to write as UTF-8, or a function that writes to a temporary path with
            the suffix of `path`.

    Raises:
        OSError: The file could not be written; an older one is unchanged.
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
    """Refuse, before any work, an output folder that may not be written.

    Args:
        folder: The output folder.
        overwrite: Whether an older result may be replaced.
        error: Class of the error to raise.
        mark: Name of a file that every folder of this kind holds; only such a folder is replaced.

    Raises:
        GatekeeperError: Of class `error`: the path is a file, or a folder that may not be replaced.
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
    """Yield an empty folder that replaces `folder` when the block ends without an error.

    Args:
        folder: The folder to write; its parents are created.
        scratch: Parent of the temporary folder, on the same file system; that of `folder` by
            default.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent = scratch or folder.parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}-") as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        yield fresh
        replace_folder(folder, fresh)


def replace_folder(path: Path, fresh: Path) -> None:
    """Move `fresh` to `path`; an older folder moves to `fresh`.

    On Linux the two are exchanged in one step, so that a kill at any moment leaves one of them
    whole at `path`. Elsewhere nothing is at `path` for a moment.

    Raises:
        OSError: The folders could not be moved; `path` is unchanged.
    """
    if not path.exists():
        fresh.rename(path)
    elif not exchange(path, fresh):
        move_aside(path, fresh)


def move_aside(path: Path, fresh: Path) -> None:
    """Exchange two folders by renaming; an error or Ctrl-C puts `path` back."""
    aside = fresh.with_name(f"{fresh.name}-old")
    path.rename(aside)
    try:
        fresh.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    aside.rename(fresh)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def place(source: Path, target: Path) -> None:
    """Hard-link a file to a second name, or copy it where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def file_state(file: Path | None) -> FileState | None:
    """Return a value that changes when a file is modified or replaced; None where it is missing."""
    try:
        status = None if file is None else file.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
