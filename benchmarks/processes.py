"""Runs a server as a real process for the length of a measurement."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Final, Self

from benchmarks.errors import BenchmarkError, ServerStartError

# MERGEDOC benchmarks/resident.py: 'What a process holds of memory and took of processor time, as the system counts it.'

_KEPT: Final = 20
"""Lines of standard error that are kept: a talkative server must not fill our memory."""
_ADDRESS = re.compile(r"((?:127\.0\.0\.1|localhost|\[::1\]):\d+)")

_KIB: Final = 1024
NOT_COUNTED: Final = "this system has no /proc/PID/statm"


@contextlib.contextmanager
def running_server(arguments: Sequence[str], *, ready_timeout_s: float = 120.0) -> Iterator[str]:
    """Start `python -m ...`, wait for its ready line, yield the address in it, then stop it.

    Args:
        arguments: Module and flags, e.g. `["cloud_stub", "--checkpoint", "runs/demo/large"]`.
        ready_timeout_s: Longest wait for the ready line, in seconds.

    Raises:
        ServerStartError: The process ended, or said nothing in time.
    """
    with Server(arguments, ready_timeout_s=ready_timeout_s) as server:
        yield server.address


class Server:
    """A server as a real process, which can be lost and come back at its address.

    Usable as a context manager, which starts it and at the end stops it.

    Args:
        arguments: Module and flags, as for `running_server`; started again, the module is also
            given `--port`.
        ready_timeout_s: Longest wait for the ready line, in seconds.
    """

    def __init__(self, arguments: Sequence[str], *, ready_timeout_s: float = 120.0) -> None:
        self.address = ""
        self._arguments = tuple(arguments)
        self._ready_timeout_s = ready_timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._complaints: list[str] = []
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            ServerStartError: The process ended, or said nothing in time.
        """
        again = ["--port", self.address.rpartition(":")[2]] if self.address else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.leash", *self._arguments, *again],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Drained all the while, or a talkative server would block on a full pipe.
        self._complaints = []
        self._reader = threading.Thread(
            target=_drain, args=(self._process, self._complaints), daemon=True
        )
        self._reader.start()
        self.address = self._await_address(self._process)

    @property
    def pid(self) -> int | None:
        """The process, None where it does not run."""
        return None if self._process is None else self._process.pid

    def stop(self) -> str:
        """End it in order, or by force where it takes too long; return its last complaints."""
        if self._process is None:
            return ""
        self.send(signal.SIGCONT)  # one that is halted hears nothing
        self.send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
            self._hear_out()
        self.kill()
        return "".join(self._complaints)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, where it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _hear_out(self) -> None:
        """Wait until all that an ended process said is read."""
        if self._reader is not None:
            self._reader.join(timeout=10)

    @property
    def _last_words(self) -> str:
        return self._complaints[-1].strip() if self._complaints else ""

    def _await_address(self, process: subprocess.Popen[str]) -> str:
        name = self._arguments[0]
        lines: Queue[str] = Queue()
        threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
        try:
            line = lines.get(timeout=self._ready_timeout_s)
        except Empty:
            raise ServerStartError(
                f"{name} was not ready within {self._ready_timeout_s:g} s"
            ) from None
        match = _ADDRESS.search(line)
        if match is None:
            process.wait(timeout=10)
            self._hear_out()
            last = self._last_words or line.strip() or "no message"
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
        for line in process.stderr:
            complaints.append(line)
            del complaints[:-_KEPT]


def resident_bytes(process: int | None = None) -> int | None:
    """Return the resident set of a process, or None where the system does not tell.

    Args:
        process: Its id; this process when None.
    """
    statm = Path("/proc") / ("self" if process is None else str(process)) / "statm"
    try:
        pages = statm.read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int | None:
    """Return the most that this process was resident with, or None where the system does not tell.

    Not `getrusage`, which counts what the parent held when it started this process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak) * _KIB


def processor_s(process: int) -> float | None:
    """Return the processor time of a process and those it started, None where it is not told.

    Args:
        process: Its id; a child that has ended is not counted.
    """
    folder = Path("/proc") / str(process)
    try:
        stat = (folder / "stat").read_text(encoding="ascii")
        children = (folder / "task" / str(process) / "children").read_text(encoding="ascii")
    except OSError:
        return None
    # The second field, the name, may hold spaces; user and system time are the 14th and 15th.
    user, system = stat.rpartition(")")[2].split()[11:13]
    own = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_s(int(child)) or 0.0 for child in children.split())


def output_lines(module: str, *words: object) -> list[str]:
    """Run `python -m MODULE WORDS...` to its end; return the lines that it prints.

    Raises:
        BenchmarkError: It failed.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"python -m {module} failed: {last_line(done.stderr)}")
    return done.stdout.splitlines()


def last_line(text: str) -> str:
    """Return the last line of what a process printed."""
    return (text.strip().splitlines() or ["no message"])[-1].strip()
