"""Runs a server as a real process for the length of a measurement."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from queue import Empty, Queue

from benchmarks.errors import ServerStartError

_ADDRESS = re.compile(r"((?:127\.0\.0\.1|localhost|\[::1\]):\d+)")


@contextlib.contextmanager
def running_server(arguments: Sequence[str], *, ready_timeout_s: float = 120.0) -> Iterator[str]:
    """Start `python -m ...`, wait for its ready line, yield the address in it, then stop it.

    Args:
        arguments: Module and flags, e.g. `["cloud_stub", "--checkpoint", "runs/demo/large"]`.
        ready_timeout_s: Longest wait for the ready line, in seconds.

    Raises:
        ServerStartError: The process ended, or said nothing in time.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.leash", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _await_address(process, arguments[0], ready_timeout_s)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _await_address(process: subprocess.Popen[str], name: str, timeout_s: float) -> str:
    lines: Queue[str] = Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    # Drained as well, or a talkative server would block on a full pipe.
    complaints: list[str] = []
    threading.Thread(target=_drain, args=(process, complaints), daemon=True).start()
    try:
        line = lines.get(timeout=timeout_s)
    except Empty:
        raise ServerStartError(f"{name} was not ready within {timeout_s:g} s") from None
    match = _ADDRESS.search(line)
    if match is None:
        process.wait(timeout=10)
        last = complaints[-1].strip() if complaints else line.strip() or "no message"
        raise ServerStartError(f"{name} did not start: {last}")
    return match.group(1)


def _read_lines(process: subprocess.Popen[str], lines: Queue[str]) -> None:
    assert process.stdout is not None  # noqa: S101 - narrows the type
    with contextlib.suppress(ValueError):  # closed under us at the end of the measurement
        for line in process.stdout:
            lines.put(line)
    lines.put("")


def _drain(process: subprocess.Popen[str], complaints: list[str]) -> None:
    assert process.stderr is not None  # noqa: S101 - narrows the type
    with contextlib.suppress(ValueError):
        complaints.extend(process.stderr)
