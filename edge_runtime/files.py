"""Writes files and folders whole or not at all, and puts error texts on one line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from edge_runtime.errors import GatekeeperError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FileState: TypeAlias = tuple[int, int, int]
"""Modification time in ns, size in bytes and inode of a file."""
SHOWN = "\n\t"
"""What a text of several lines may hold beside printable characters, for `clean`."""
_HIDDEN = frozenset({"__MACOSX", "@eaDir"})
"""Folders that macOS and network drives put among a user's; they hold no pictures of his."""
_FRESH = "fresh"
_ASIDE = "fresh-old"
_LOCK = ".lock"
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP}
"""What file systems say that cannot sync a folder."""
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
    """Write a file so that readers, a kill and a power cut see the old or the new one whole.

    Pipes and devices are written as they are.

    Args:
        path: The file; its folder is created where it is missing.
        content: Bytes, text to write as UTF-8 with what it cannot hold as escape sequences, or a
            function that writes to a temporary path with the suffix of `path`.

    Raises:
        OSError: The file could not be written; an older one is unchanged.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    if path.exists() and not path.is_file() and not callable(content):
        path.write_bytes(content)
        return
    with scratch_folder(path) as scratch:
        fresh = scratch / f"{_FRESH}{path.suffix}"
        if callable(content):
            content(fresh)
        else:
            fresh.write_bytes(content)
        sync(fresh)
        fresh.replace(path)
        sync(path.parent)


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
    repair(folder)
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
    _make(folder.parent)
    with scratch_folder(folder, scratch) as temporary:
        fresh = temporary / _FRESH
        fresh.mkdir()
        yield fresh
        replace_folder(folder, fresh)


@contextlib.contextmanager
def scratch_folder(place: Path | None = None, parent: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder, which the next one for the same place removes after a kill.

    Args:
        place: What is made in it; by default a place among the system's temporary files.
        parent: The folder to make it in; that of `place` by default.
    """
    place = place or Path(tempfile.gettempdir(), "gatekeeper-edge")
    parent = parent or place.parent
    _make(parent)
    repair(place, parent)
    folder, lock = _new_scratch(parent, _label(place, parent))
    try:
        yield folder
    finally:
        _discard(folder, lock, place)


def repair(place: Path, parent: Path | None = None) -> None:
    """Remove what processes that were killed left beside a place, and put back what they took.

    Args:
        place: The file or folder that they wrote.
        parent: The folder of their temporary folders; that of `place` by default.
    """
    parent = parent or place.parent
    name = re.compile(re.escape(f".{_label(place, parent)}-") + "[0-9]+-[a-z0-9_]{8}")
    user = 0 if sys.platform == "win32" else os.geteuid()  # others could set traps in /tmp
    with contextlib.suppress(OSError):  # a folder that may not be listed or is not there
        for found in sorted(p for p in parent.iterdir() if name.fullmatch(p.name)):
            if found.lstat().st_uid == user and not found.is_symlink():
                _discard_dead(found, place)


def _label(place: Path, parent: Path) -> str:
    """Return the name of a place, with the folders between that and `parent`."""
    return "+".join(Path(os.path.relpath(place, parent)).parts)


def _new_scratch(parent: Path, name: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor of the lock in it."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}-{os.getpid()}-"))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            with contextlib.suppress(OSError):
                folder.rmdir()
            if isinstance(error, FileNotFoundError):  # another process took it for a dead one's
                continue
            raise
        if _lock(lock, unsure=True) and os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _discard_dead(folder: Path, place: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            folder.rmdir()  # empty: its process ended before it had the lock
        return
    except OSError:  # another user's
        return
    if _lock(lock, unsure=False):
        _discard(folder, lock, place)
    else:
        os.close(lock)


def _discard(folder: Path, lock: int, place: Path) -> None:
    """Remove a temporary folder; what stood at `place` before goes back if nothing is there."""
    try:
        aside = folder / _ASIDE
        if aside.is_dir() and not os.path.lexists(place):
            aside.rename(place)
            sync(place.parent)
        for child in list(folder.iterdir()):
            if child.name != _LOCK:
                _remove(child)
    except OSError:
        os.close(lock)  # the next one tries again
        return
    os.close(lock)  # Windows removes no open file
    with contextlib.suppress(OSError):
        (folder / _LOCK).unlink()
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    path.chmod(0o700)
    for root, folders, _ in os.walk(path):
        for folder in (Path(root, name) for name in folders):
            if not folder.is_symlink():
                folder.chmod(0o700)
    shutil.rmtree(path)


def _lock(descriptor: int, *, unsure: bool) -> bool:
    """Return whether a file is locked now; `unsure` where its file system has no locks."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return unsure
    return True


def _make(folder: Path) -> None:
    """Create a folder with its parents, so that a power cut leaves them."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of the names in a folder, is on the disk.

    Raises:
        OSError: It could not be written there.
    """
    is_windows = sys.platform == "win32"
    if is_windows and path.is_dir():
        return  # Windows opens no folders, and writes their names by itself
    try:
        descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    except PermissionError:
        return  # a folder that may be written but not read
    try:
        if sys.platform == "darwin":  # where `fsync` leaves the bytes in the disk's own cache
            with contextlib.suppress(OSError):  # a file system without it
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until a folder with all its files is on the disk.

    Raises:
        OSError: A file could not be written there.
    """
    for root, _, names in os.walk(folder, topdown=False):
        for path in (Path(root, name) for name in names):
            if path.is_file() and not path.is_symlink():
                sync(path)
        sync(Path(root))


def replace_folder(path: Path, fresh: Path) -> None:
    """Move `fresh` to `path`; an older folder moves to `fresh`.

    The files are on the disk before. On Linux the two are exchanged in one step, so that a kill at
    any moment leaves one of them whole at `path`. Elsewhere nothing is at `path` for a moment;
    after a kill just then, `repair` puts the older one back.

    Raises:
        OSError: The folders could not be moved; one of them is at `path`.
    """
    sync_tree(fresh)
    if not path.exists():
        fresh.rename(path)
    elif not exchange(path, fresh):
        move_aside(path, fresh)
    sync(path.parent)


def move_aside(path: Path, fresh: Path) -> None:
    """Exchange two folders by renaming; an error or Ctrl-C puts `path` back."""
    aside = fresh.with_name(_ASIDE)
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
