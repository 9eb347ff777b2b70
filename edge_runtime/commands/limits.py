"""Limits of memory and time for work on a file that may come from anyone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Final

_ROOM_BYTES: Final = 4 << 30
_COPIES: Final = 4
"""ONNX Runtime holds weights up to three times while it loads and arranges them."""
_GRACE_S: Final = 2.0
_WATCH: Final = """\
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[2]))[0]:
    os.write(2, os.fsencode(sys.argv[3]) + b"\\n")
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""
_STATUS: Final = Path("/proc/self/status")


@contextlib.contextmanager
def limited(files_bytes: int | None, seconds: float, line: str) -> Iterator[None]:
    """Bound the memory and the time of a block, which must be the only work of the process.

    A request for memory beyond 4 GiB, and four times the files, fails as if the machine had no
    more (Linux alone). The process ends with the line when the time is over: native code cannot be
    interrupted.

    Args:
        files_bytes: Size of the files that are worked on; None leaves the memory unbounded.
        seconds: Limit of time.
        line: Line on standard error at the end of the time.
    """
    timer = Timer(seconds, _end, (line,))
    timer.daemon = True
    timer.start()
    try:
        with _watched(seconds + _GRACE_S, line), _bounded_memory(files_bytes):
            yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _watched(seconds: float, line: str) -> Iterator[None]:
    """Let another process end this one: ONNX Runtime 1.20 lets no thread run while it loads."""
    if os.name != "posix":
        yield
        return
    words = [str(os.getpid()), str(seconds), line]
    command = [sys.executable, "-I", "-S", "-c", _WATCH, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE):  # ends when its input closes
        yield


def _end(line: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
    os._exit(1)


@contextlib.contextmanager
def _bounded_memory(files_bytes: int | None) -> Iterator[None]:
    held = _data_bytes()
    if held is None or files_bytes is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # Never more than the machine has, whatever the size of a sparse file, nor than the user allows.
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = min(held + _ROOM_BYTES + _COPIES * files_bytes, machine)
    least = [each for each in (soft, hard, wanted) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(least), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int | None:
    """Return the bytes that the system counts against `RLIMIT_DATA`; None where it does not."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for entry in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if entry.startswith("VmData:"):
                return int(entry.split()[1]) << 10
    return None
