"""A wall clock that jumps: for one process, by a library of a few lines that is preloaded."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest


class WallClock:
    """Sets the time of processes started with its environment; theirs alone.

    Args:
        folder: Where the library is built.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("needs Linux and a C compiler")
        self._file = folder / "shift"
        self._library = folder / "wall_clock.so"
        self.jump(0)
        source = Path(__file__).with_name("wall_clock.c")
        words = ["-shared", "-fPIC", "-O1", "-o", self._library, source, "-ldl"]
        subprocess.run([compiler, *words], check=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": str(self._library), "CLOCK_SHIFT": str(self._file)}

    def jump(self, shift_s: int) -> None:
        """Set the clock so many seconds off the true time, at once."""
        # In place: the processes have this very file in memory.
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", shift_s))
