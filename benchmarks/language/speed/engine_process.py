"""Runs an engine as a process of its own, so that engines share no threads and no caches."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.errors import BenchmarkError
from benchmarks.language.speed.answer_loop import Request
from benchmarks.processes import ChildProcess, last_line

_ROOT: Final = str(Path(__file__).parents[3])
_LONGEST_S: Final = 180.0
_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class TimedOutput:
    """A generated answer, and the time that it took.

    Attributes:
        tokens: The new tokens.
        confidence: Their mean negative entropy in nats; None without a gate.
        took_ns: Time within the process, in nanoseconds.
    """

    tokens: tuple[int, ...]
    confidence: float | None
    took_ns: int


class EngineProcess(ChildProcess):
    """A process that generates on one thread.

    Args:
        python: Interpreter of the engine's environment.
        module: Module that calls `answer_loop.serve`.
        arguments: Arguments of the module.
        log: File for its standard error.

    Attributes:
        version: Distribution and version of the engine, once it has started.
    """

    version = ""

    def __init__(self, python: Path | str, module: str, *arguments: str, log: Path) -> None:
        super().__init__()
        self._name = " ".join((module.rpartition(".")[2], *arguments[:1]))
        self._command: Sequence[str] = [str(python), "-m", module, *arguments]
        self._log = log

    def start(self) -> None:
        """Start the process and wait until it has loaded its model.

        Raises:
            BenchmarkError: It ended, or took too long.
        """
        paths = [_ROOT, os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, paths))
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": path},
            )
        self.version = self._read()["version"]

    def __call__(self, request: Request) -> TimedOutput:
        """Generate once.

        Raises:
            BenchmarkError: The process ended, or did not answer in time.
        """
        process = self._running
        assert process.stdin is not None  # noqa: S101 - narrows the type
        try:
            process.stdin.write(json.dumps(request._asdict()) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: its log says why
        answer = self._read()
        return TimedOutput(tuple(answer["tokens"]), answer["confidence"], answer["took_ns"])

    @property
    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise BenchmarkError(f"expected {self._name} to run, it was not started")
        return self._process

    def _read(self) -> dict[str, Any]:
        process = self._running
        assert process.stdout is not None  # noqa: S101 - narrows the type
        limit = threading.Timer(_LONGEST_S, process.kill)
        limit.start()
        try:
            line = process.stdout.readline()
        finally:
            limit.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        process.wait()
        log = self._log.read_text(encoding="utf-8", errors="replace")
        reason = last_line(log) if log.strip() else f"no answer within {_LONGEST_S:g} s"
        raise BenchmarkError(f"expected an answer from {self._name}, it ended: {reason}")
