"""Records, on the device, deferred inputs with M_L's answers, as training data for M_S.

    recorder = Recorder("recorded", max_bytes=64 << 20)
    with Cascade.open("bundle", cloud="localhost:8001", record=recorder) as cascade:
        ...
    # then, where training happens: python -m train harvest --records recorded ...

Without a recorder nothing is recorded, and a recorder sends nothing off the device.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import errno
import io
import logging
import os
import queue
import secrets
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SettingError
from edge_runtime.files import sync_tree
from edge_runtime.recording.records import RECORDS_FILE, Record

BLOCK_BYTES: Final = 4096
"""Unit in which a disk allocates space: a small file takes a whole block."""
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_FAST: Final = 1  # zlib's level: higher ones save little and take several times as long
DEFAULT_MAX_BYTES: Final = 256 << 20
_MAX_QUEUED: Final = 10_000  # inputs
_MAX_QUEUED_BYTES: Final = 64 << 20
_CLOSE_TIMEOUT_S: Final = 10.0
_Entry = tuple[npt.NDArray[Any], Record]
_log = logging.getLogger(__name__)


class Recorder:
    """Writes deferred inputs and their answers to a folder, in a background thread.

    Answers never wait for it and never fail because of it. An input that cannot be written (limit
    reached, full disk, read-only folder, inputs arriving faster than the disk writes) is counted
    in `dropped`, and logged once as a warning of `edge_runtime.recording.recorder`.

    Safe to share between threads; not across `fork()`, nor between processes: one folder belongs
    to one recorder at a time. A restart continues in the same folder within the same limit.

    Args:
        folder: Output folder, created with mode 0700 where it is missing; its files have mode 0600.
        max_bytes: Limit on the folder's disk space, earlier recordings included.
        max_inputs: Limit on the number of inputs, earlier ones included.

    Attributes:
        recorded: Number of inputs written.
        dropped: Number of inputs that could not be written.

    Raises:
        SettingError: A limit is below 1, or the folder is a file.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_inputs: int | None = None,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("max_inputs", max_inputs)):
            if value is not None and value < 1:
                raise SettingError(f"expected {name} of at least 1, got {value}")
        self.folder = Path(folder)
        if self.folder.is_file():
            raise SettingError(f"expected a folder to record to, {folder} is a file: name another")
        self.recorded = 0
        self.dropped = 0
        self._store = RecordStore(self.folder, max_bytes, max_inputs)
        self._queue: queue.Queue[_Entry | None] = queue.Queue(_MAX_QUEUED)
        self._lock = threading.Lock()
        self._queued_bytes = 0
        self._writer: threading.Thread | None = None
        self._is_closed = False
        self._is_at_limit = False
        self._warned: set[str] = set()

    def add(self, array: npt.NDArray[Any], record: Record) -> None:
        """Copy an original input and queue it, with its record, for writing."""
        with self._lock:
            if self._is_closed or self._is_at_limit or self._is_behind(array.nbytes):
                self.dropped += 1
                return
            now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
            try:
                entry = array.copy(), dataclasses.replace(record, time=now)
                self._start()
            except (MemoryError, RuntimeError) as error:  # no memory, or no thread, is left
                self._warn_once("failed", f"{error or 'no memory is left'}")
                self.dropped += 1
                return
            self._queued_bytes += array.nbytes
            self._queue.put_nowait(entry)

    def close(self) -> None:
        """Write the queued inputs and release the folder; later inputs are dropped."""
        with self._lock:
            writer, self._writer = self._writer, None
            self._is_closed = True
        if writer is not None:
            atexit.unregister(self.close)
            with contextlib.suppress(queue.Full):  # a disk that hangs must not hang the program
                self._queue.put(None, timeout=_CLOSE_TIMEOUT_S)
                writer.join(_CLOSE_TIMEOUT_S)

    def _is_behind(self, more_bytes: int) -> bool:
        # A single input may have any size.
        is_full = self._queued_bytes > 0 and self._queued_bytes + more_bytes > _MAX_QUEUED_BYTES
        if is_behind := is_full or self._queue.full():
            self._warn_once("slow", "inputs come faster than they can be written")
        return is_behind

    def _start(self) -> None:
        if self._writer is None:
            writer = threading.Thread(target=self._write_all, name="recorder", daemon=True)
            writer.start()
            self._writer = writer
            # A program that ends without closing the cascade keeps its recordings.
            atexit.register(self.close)

    def _write_all(self) -> None:
        while (entry := self._queue.get()) is not None:
            is_written = self._write(*entry)
            with self._lock:
                self._queued_bytes -= entry[0].nbytes
                self.recorded += is_written
                self.dropped += not is_written
        self._store.close()

    def _write(self, array: npt.NDArray[Any], record: Record) -> bool:
        if self._is_at_limit:
            return False
        try:
            is_written = self._store.write(array, record)
        except OSError as error:
            self._warn_once("failed", f"{error.strerror or error}")
            return False
        except Exception as error:  # noqa: BLE001 - the writer must survive any error
            self._warn_once("failed", f"{type(error).__name__}: {error}")
            return False
        if not is_written:
            self._is_at_limit = True
            self._warn_once("limit", "its limit is reached: harvest it, empty it, and start again")
        return is_written

    def _warn_once(self, kind: str, reason: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s: an input was not recorded, %s; more are counted", self.folder, reason)


class RecordStore:
    """A recorder's folder, opened at the first write; not safe to share between threads.

    It never holds a half-written input. Its limits are on the disk space of all files, in blocks of
    4 KiB, and on the number of inputs.
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
        """Write an input and its line; return False at a limit; an error leaves no trace."""
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
        """Wait until the records are on the disk, close the folder's file and release its lock."""
        if self._lines >= 0:
            # Only here: a record's own sync would keep the queue waiting for the disk.
            with contextlib.suppress(OSError):
                sync_tree(self._folder)
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
    if array.dtype == np.uint8 and array.shape[2:] == (3,):
        with contextlib.suppress(ImportError):
            from PIL import Image

            Image.fromarray(array).save(buffer, "PNG", compress_level=_FAST)
            return ".png", buffer.getvalue()
    np.save(buffer, array, allow_pickle=False)
    return ".npy", buffer.getvalue()


def _on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
