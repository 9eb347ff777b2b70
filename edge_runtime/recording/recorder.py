"""Keeps, on the device, the deferred inputs with M_L's answers: what M_S should learn next.

    recorder = Recorder("recorded", max_bytes=64 << 20)
    with Cascade.open("bundle", cloud="localhost:8001", record=recorder) as cascade:
        ...
    # then, where training happens: python -m train harvest --records recorded ...

Nothing is recorded unless a recorder is given, and nothing of it leaves the device by this.
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
_MOST_WAITING: Final = 10_000  # inputs
_MOST_WAITING_BYTES: Final = 64 << 20
_LONGEST_CLOSE_S: Final = 10.0
_Waiting = tuple[npt.NDArray[Any], Record]
_log = logging.getLogger(__name__)


class Recorder:
    """Writes deferred inputs and their answers to a folder, from a thread of its own.

    An answer never waits for it and never fails by it. Whatever keeps an input from being written
    (the bound, a full disk, a folder that may not be written, inputs coming faster than the disk
    takes them) is logged once as a warning of `edge_runtime.recording.recorder` and counted in `dropped`.

    Safe to share between threads; not across `fork()`, nor between processes: one folder belongs
    to one recorder at a time. A restart goes on in the same folder within the same bound.

    Args:
        folder: Where to write, made with mode 0700 where it is missing; its files have mode 0600.
        max_bytes: What the folder may take on disk, earlier recordings included.
        max_inputs: How many inputs it may hold, earlier ones included.

    Attributes:
        recorded: Inputs written.
        dropped: Inputs that were to be written and were not.

    Raises:
        SettingError: A bound is under 1, or the folder is a file.
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
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._writer: threading.Thread | None = None
        self._is_closed = False
        self._is_at_limit = False
        self._said: set[str] = set()

    def add(self, array: npt.NDArray[Any], record: Record) -> None:
        """Take an input and what was answered; it is copied here and written later.

        Args:
            array: The input as it came, e.g. uint8 [height, width, 3].
            record: The answers; its file and time are filled in.
        """
        with self._lock:
            if self._is_closed or self._is_at_limit or self._is_behind(array.nbytes):
                self.dropped += 1
                return
            now = datetime.now(UTC).isoformat(timespec="microseconds")
            try:
                waiting = array.copy(), dataclasses.replace(record, time=now)
                self._start()
            except (MemoryError, RuntimeError) as error:  # no memory, or no thread, for it
                self._say("failed", f"{error or 'no memory is left'}")
                self.dropped += 1
                return
            self._waiting_bytes += array.nbytes
            self._queue.put_nowait(waiting)

    def close(self) -> None:
        """Write what still waits, and let go of the folder; what comes later is dropped."""
        with self._lock:
            writer, self._writer = self._writer, None
            self._is_closed = True
        if writer is not None:
            atexit.unregister(self.close)
            with contextlib.suppress(queue.Full):  # a disk that hangs must not hang the program
                self._queue.put(None, timeout=_LONGEST_CLOSE_S)
                writer.join(_LONGEST_CLOSE_S)

    def _is_behind(self, more_bytes: int) -> bool:
        waiting_bytes = self._waiting_bytes + more_bytes
        # One input alone may be as large as it likes.
        is_behind = self._waiting_bytes > 0 and waiting_bytes > _MOST_WAITING_BYTES
        if is_behind := is_behind or self._queue.full():
            self._say("slow", "inputs come faster than they can be written")
        return is_behind

    def _start(self) -> None:
        if self._writer is None:
            writer = threading.Thread(target=self._write_all, name="recorder", daemon=True)
            writer.start()
            self._writer = writer
            # A program that ends without closing the cascade keeps what it recorded.
            atexit.register(self.close)

    def _write_all(self) -> None:
        while (waiting := self._queue.get()) is not None:
            is_written = self._write(*waiting)
            with self._lock:
                self._waiting_bytes -= waiting[0].nbytes
                self.recorded += is_written
                self.dropped += not is_written
        self._store.close()

    def _write(self, array: npt.NDArray[Any], record: Record) -> bool:
        if self._is_at_limit:
            return False
        try:
            is_written = self._store.write(array, record)
        except OSError as error:
            self._say("failed", f"{error.strerror or error}")
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live on
            self._say("failed", f"{type(error).__name__}: {error}")
            return False
        if not is_written:
            self._is_at_limit = True
            self._say("limit", "its limit is reached: harvest it, empty it, and start again")
        return is_written

    def _say(self, kind: str, reason: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            _log.warning("%s: an input was not recorded, %s; more are counted", self.folder, reason)
