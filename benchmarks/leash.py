"""Runs a module that ends together with the process that started it, even after kill -9.

Used as `python -m benchmarks.leash MODULE ARGUMENTS...` with a pipe as standard input: the pipe
closes when the other process ends, in whatever way.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_pipe() -> None:
    # Not sys.stdin: at exit the interpreter waits for the lock that its reader holds.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_pipe, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
