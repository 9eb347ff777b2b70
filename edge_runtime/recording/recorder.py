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
import logging
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from edge_runtime.errors import SettingError
from edge_runtime.recording.records import Record
from edge_runtime.recording.store import RecordStore

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
        """Copy an input and queue it, with its answers, for writing.

        Args:
            array: The original input, e.g. uint8 [height, width, 3].
            record: The answers; file and time are filled in.
        """
        with self._lock:
            if self._is_closed or self._is_at_limit or self._is_behind(array.nbytes):
                self.dropped += 1
                return
            now = datetime.now(UTC).isoformat(timespec="microseconds")
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
