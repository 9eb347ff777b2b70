"""Foreign engines as processes that can be killed, stopped and restarted on their port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

_ENGINE = Path(__file__).with_name("foreign_engine.py")


class Engine:
    """A foreign engine; its port stays the same when it is restarted.

    Args:
        mode: Kind of its answers, see `foreign_engine`.
        max_bytes: Largest message that it accepts.
    """

    def __init__(self, mode: str = "pixel", *, max_bytes: int = 1 << 26) -> None:
        pytest.importorskip("tritonclient.grpc")
        self.port = 0
        self._mode = mode
        self._max_bytes = max_bytes
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, mode: str | None = None) -> None:
        """Start the engine and wait until it serves."""
        flags = ["--port", str(self.port), "--max-bytes", str(self._max_bytes)]
        self._process = subprocess.Popen(
            [sys.executable, _ENGINE, mode or self._mode, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """End the engine as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def stop(self) -> None:
        """Suspend the engine; its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)
        # The signal takes time: until then the engine could send one more answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
