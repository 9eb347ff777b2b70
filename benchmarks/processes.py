"""Runs real processes for a measurement, and reads what the system counts of them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from benchmarks.errors import BenchmarkError, ServerStartError

if TYPE_CHECKING:
    from typing_extensions import Self

_KEPT: Final = 20
"""Lines of standard error that are kept: a server that prints a lot must not fill our memory."""
_ADDRESS: Final = re.compile(r"((?:127\.0\.0\.1|localhost|\[::1\]):\d+)")

_ROOT: Final = str(Path(__file__).parents[1])
_KIB: Final = 1024
NOT_COUNTED: Final = "this system has no /proc/PID/statm"


@contextlib.contextmanager
def running_server(arguments: Sequence[str], *, ready_timeout_s: float = 120.0) -> Iterator[str]:
    """Start `python -m ...`, wait for its ready line, yield the address in it, then stop it.

    Args:
        arguments: Module and flags, e.g. `["cloud_stub", "--checkpoint", "runs/demo/large"]`.
        ready_timeout_s: Longest wait for the ready line, in seconds.

    Raises:
        ServerStartError: The process ended, or printed no address in time.
    """
    with Server(arguments, ready_timeout_s=ready_timeout_s) as server:
        yield server.address


def start_module(module: str, *words: str) -> subprocess.Popen[str]:
    """Start `python -m MODULE WORDS...` of this toolkit, whatever the working folder holds."""
    paths = [_ROOT, os.environ.get("PYTHONPATH", "")]
    safe = ["-P"] if sys.version_info >= (3, 11) else []
    return subprocess.Popen(
        [sys.executable, *safe, "-m", module, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class ChildProcess(ABC):
    """A process that runs for the length of a block, as a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[Any] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start the process and wait until it is ready."""

    @property
    def pid(self) -> int | None:
        """Id of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> str:
        """Terminate the process, by force if it takes too long; return its last errors."""
        self.send(signal.SIGCONT)  # a halted process receives nothing else
        self.send(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait()
        self.kill()
        return ""

    def _wait(self) -> None:
        """Wait until the process has ended."""
        if self._process is not None:
            self._process.wait(timeout=30)

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()

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


class Server(ChildProcess):
    """A server as a real process, which can be killed and started again at its address.

    Args:
        arguments: Module and flags, as for `running_server`; at a second start `--port` is added.
        ready_timeout_s: Longest wait for the ready line, in seconds.
    """

    def __init__(self, arguments: Sequence[str], *, ready_timeout_s: float = 120.0) -> None:
        super().__init__()
        self.address = ""
        self._arguments = tuple(arguments)
        self._ready_timeout_s = ready_timeout_s
        self._errors: list[str] = []
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            ServerStartError: The process ended, or printed no address in time.
        """
        again = ["--port", self.address.rpartition(":")[2]] if self.address else []
        self._process = start_module("benchmarks.leash", *self._arguments, *again)
        # Read all the while, or a server that prints a lot would block on a full pipe.
        self._errors = []
        self._reader = threading.Thread(
            target=_drain, args=(self._process, self._errors), daemon=True
        )
        self._reader.start()
        self.address = self._await_address(self._process)

    def stop(self) -> str:
        """Terminate the process, by force if it takes too long; return its last errors."""
        if self._process is None:
            return ""
        super().stop()
        return "".join(self._errors)

    def _wait(self) -> None:
        super()._wait()
        if self._reader is not None:  # all of its output is read
            self._reader.join(timeout=10)

    @property
    def _last_error(self) -> str:
        return self._errors[-1].strip() if self._errors else ""

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
            self._wait()
            last = self._last_error or line.strip() or "no message"
            raise ServerStartError(f"{name} did not start: {last}")
        return match.group(1)


def _read_lines(process: subprocess.Popen[str], lines: Queue[str]) -> None:
    assert process.stdout is not None  # noqa: S101 - narrows the type
    with contextlib.suppress(ValueError):  # closed by `kill` in the meantime
        for line in process.stdout:
            lines.put(line)
    lines.put("")


def _drain(process: subprocess.Popen[str], errors: list[str]) -> None:
    assert process.stderr is not None  # noqa: S101 - narrows the type
    with contextlib.suppress(ValueError):
        for line in process.stderr:
            errors.append(line)
            del errors[:-_KEPT]


def resident_bytes(process: int | None = None) -> int | None:
    """Return the resident set of a process; None where the system does not report it.

    Args:
        process: Id of the process; this one when None.
    """
    statm = Path("/proc") / ("self" if process is None else str(process)) / "statm"
    try:
        pages = statm.read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int | None:
    """Return the peak of this process's resident set; None where the system does not report it.

    `getrusage` would also count the memory that the parent held when it started this process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else int(peak) * _KIB


def processor_s(process: int) -> float | None:
    """Return the processor time of a process and its running children; None if it is unknown.

    Args:
        process: Id of the process.
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
    with start_module(module, *map(str, words)) as process:
        printed, errors = process.communicate()
    if process.returncode:
        raise BenchmarkError(f"python -m {module} failed: {last_line(errors)}")
    return printed.splitlines()


def last_line(text: str) -> str:
    """Return the last line of what a process printed."""
    return (text.strip().splitlines() or ["no message"])[-1].strip()
