"""Logs on standard error, as text or as one JSON object per line.

Of what a client sent, a log holds only its request id, its address and the model's name: no
picture, text, label or token. An exception is logged with its type and location, without its
message, which may repeat an input. Strings that a client chose are shortened and escaped, so that
they cannot forge a line.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO

from cloud_stub.protocol.inference import CallRecord
from cloud_stub.scheduling.statistics import Outcome
from edge_runtime.errors import DependencyError

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
BURST: Final = 20
"""Lines of one kind that are written at once, before they are limited to one per second."""
CHARACTERS: Final = 128
"""Most characters of a string that a client chose."""
_QUEUE_LINES: Final = 1000
_CLOSE_S: Final = 2.0
_NO_EXTRAS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CALLS: Final = logging.getLogger("cloud_stub.calls")


def configure(style: Format, level: Level, stream: TextIO | None = None) -> Writer:
    """Send the whole process's log records to a stream.

    Args:
        style: `text` for people, `json` for programs.
        level: The lowest level that is written.
        stream: Target of the lines; standard error if None.

    Returns:
        The writer, to be closed at the end so that the last lines are written.

    Raises:
        DependencyError: The library for JSON logs is not installed.
    """
    writer = Writer(stream or sys.stderr)
    writer.setFormatter(_json_formatter() if style == "json" else TextFormatter())
    writer.addFilter(FloodGate())
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    return writer


def log_call(call: CallRecord) -> None:
    """Log an inference call that has ended: at debug if it was answered, otherwise as a warning."""
    level = logging.DEBUG if call.outcome is Outcome.ANSWERED else logging.WARNING
    if not _CALLS.isEnabledFor(level):
        return
    fields = {
        "model": clip(call.model),
        "request_id": clip(call.request_id),
        "peer": clip(call.client),
        "rows": call.rows,
        "outcome": str(call.outcome),
        "code": call.code.name,
        "total_ms": round(call.total_s * 1e3, 3),
        "queue_ms": round(call.queue_s * 1e3, 3),
        "compute_ms": round(call.compute_s * 1e3, 3),
    }
    _CALLS.log(level, "call", extra=fields)


def clip(text: str) -> str:
    """Shorten a string that a client chose."""
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}..."


class FloodGate(logging.Filter):
    """Limits warnings and errors of one kind to a burst and then one per second.

    Faulty callers then cannot fill the disk. The next line that passes holds the number of dropped
    ones as `suppressed`; the metrics count all of them.

    Args:
        clock: Function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record may be written; called by logging."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        # Not by the message: a library may produce any number of different ones.
        kind = (record.name, record.levelno, getattr(record, "outcome", ""))
        allowed, then, held = self._kinds.get(kind, (float(BURST), now, 0))
        allowed = min(BURST, allowed + now - then)
        passes = allowed >= 1
        self._kinds[kind] = (allowed - passes, now, 0 if passes else held + 1)
        if passes and held:
            record.suppressed = held
        return passes


class Writer(logging.Handler):
    """Writes lines from a thread of its own, so that a slow reader of the log slows no call.

    When the queue is full, lines are dropped and counted.

    Args:
        stream: Target of the lines.

    Attributes:
        dropped: Number of lines dropped so far.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.dropped = 0
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; called by logging."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write the queued lines, without waiting long for a reader that does not read."""
        super().close()
        if self._thread.is_alive():
            try:
                self._lines.put(None, timeout=_CLOSE_S)
            except queue.Full:
                return
            self._thread.join(_CLOSE_S)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(f"{line}\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # a full disk, a reader that has gone, a closed stream
                self.dropped += 1


class TextFormatter(logging.Formatter):
    """One line per record: time, level, event, then key=value; values are quoted if necessary."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text; called by logging."""
        time_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event = record.getMessage().encode("unicode_escape").decode("ascii")
        extras = (f" {name}={_text(value)}" for name, value in _extras(record).items())
        line = f"{time_text}.{record.msecs:03.0f}Z {record.levelname} {event}{''.join(extras)}"
        return line if not record.exc_info else f"{line}\n{location(record.exc_info[1])}"


def _json_formatter() -> logging.Formatter:
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ImportError:
        raise DependencyError("python-json-logger", "a log in JSON", "serve") from None

    class Formatter(JsonFormatter):
        def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
            return location(ei[1])

    return Formatter(
        ["levelname", "name", "message"],
        timestamp="time",
        rename_fields={
            "levelname": "level",
            "name": "logger",
            "message": "event",
            "exc_info": "error",
        },
        reserved_attrs=_NO_EXTRAS,
    )


def location(error: BaseException | None) -> str:
    """Return an exception's type and location, without its message, which may repeat an input.

    Its cause comes first, as in Python's own tracebacks.
    """
    parts: list[str] = []
    while error is not None:
        parts[:0] = [*traceback.format_tb(error.__traceback__), f"{type(error).__name__}\n"]
        error = error.__cause__
    return "".join(parts).rstrip()


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _NO_EXTRAS}


def _text(value: object) -> str:
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & {" ", '"', "="}
    return text if text and is_plain else json.dumps(text)
