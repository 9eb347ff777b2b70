"""Writes the files of a recorder's folder within a size limit, and leaves none half written."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import secrets
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime.recording.records import RECORDS_FILE, Record

BLOCK_BYTES: Final = 4096
"""Unit in which a disk allocates space: a small file takes a whole block."""
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_PICTURE_RANK: Final = 3
_COLOURS: Final = 3
_FAST: Final = 1  # zlib's level: higher ones save little and take several times as long


class RecordStore:
    """A recorder's folder, opened at the first write; not safe to share between threads.

    Args:
        folder: The folder, created with mode 0700 where it is missing.
        max_bytes: Limit on the disk space of all its files, in blocks of 4 KiB.
        max_inputs: Limit on the number of inputs; None for no other limit than `max_bytes`.
    """

    def __init__(self, folder: Path, max_bytes: int, max_inputs: int | None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_inputs = max_inputs
        self._lines = -1  # a file descriptor
        self._lines_bytes = 0
        self._inputs = 0
        self._taken_bytes = 0

    def write(self, array: npt.NDArray[Any], record: Record) -> bool:
        """Write an input and its line; return False where they would exceed a limit.

        Raises:
            OSError: The folder cannot be written; a partial input is removed.
        """
        if self._lines < 0:
            self._open()
        suffix, content = encode(array)
        name = f"{time.time_ns()}-{secrets.token_hex(2)}{suffix}"
        line = dataclasses.replace(record, file=name).to_line()
        taken = self._taken_bytes + _on_disk(len(content))
        taken += _on_disk(self._lines_bytes + len(line)) - _on_disk(self._lines_bytes)
        has_room = self._max_inputs is None or self._inputs < self._max_inputs
        if taken > self._max_bytes or not has_room:
            return False
        self._write_file(self._folder / name, content)
        try:
            self._append(line)
        except OSError:
            self._remove(self._folder / name)
            raise
        self._taken_bytes = taken
        self._inputs += 1
        return True

    def close(self) -> None:
        """Close the folder's file and release its lock."""
        if self._lines >= 0:
            os.close(self._lines)
            self._lines = -1

    def _open(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        lines = os.open(self._folder / RECORDS_FILE, flags, _FILE_MODE)
        try:
            self._lock(lines)
            self._count_existing(lines)
        except OSError:
            os.close(lines)
            raise
        self._lines = lines

    def _lock(self, lines: int) -> None:
        # Two processes would count separately, and exceed the limit together.
        try:
            import fcntl
        except ImportError:  # this system has no such locks
            return
        try:
            fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                errno.EBUSY, "another process records there: give each a folder of its own"
            ) from None

    def _count_existing(self, lines: int) -> None:
        """Count the existing files, so that this process continues within the same limit."""
        content = (self._folder / RECORDS_FILE).read_bytes()
        self._lines_bytes = len(content)
        if content and not content.endswith(b"\n"):  # a kill left half a line
            self._lines_bytes += os.write(lines, b"\n")
        self._inputs = content.count(b"\n")
        others = (f for f in self._folder.iterdir() if f.name != RECORDS_FILE)
        self._taken_bytes = _on_disk(self._lines_bytes)
        self._taken_bytes += sum(_on_disk(f.stat().st_size) for f in others if f.is_file())

    def _write_file(self, path: Path, content: bytes) -> None:
        # No line names the file yet, so a kill here leaves nothing that would be read.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        except OSError:
            self._remove(path)
            raise

    def _append(self, line: bytes) -> None:
        written = os.write(self._lines, line)
        if written < len(line):
            os.ftruncate(self._lines, self._lines_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._lines_bytes += written

    @staticmethod
    def _remove(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()


def encode(array: npt.NDArray[Any]) -> tuple[str, bytes]:
    """Return (file suffix, content) of an input, lossless.

    A picture uint8 [height, width, 3] becomes a PNG if Pillow is installed; everything else becomes
    a numpy file.
    """
    buffer = io.BytesIO()
    if array.dtype == np.uint8 and array.ndim == _PICTURE_RANK and array.shape[-1] == _COLOURS:
        with contextlib.suppress(ImportError):
            from PIL import Image

            Image.fromarray(array).save(buffer, "PNG", compress_level=_FAST)
            return ".png", buffer.getvalue()
    np.save(buffer, array, allow_pickle=False)
    return ".npy", buffer.getvalue()


def _on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
