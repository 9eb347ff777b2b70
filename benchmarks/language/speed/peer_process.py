"""Runs one that generates as a process of its own, so that nobody shares threads and caches."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.errors import BenchmarkError
from benchmarks.language.speed.answer_loop import Request

# MERGEDOC benchmarks/peers/__init__.py: 'Servers of others that the cloud side is measured beside.'

_ROOT: Final = str(Path(__file__).parents[3])
_LONGEST_S: Final = 180.0
_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Timed:
    """What a process generated, and how long that took it.

    Attributes:
        tokens: The new tokens.
        confidence: Their mean negative entropy in nats, None without a gate.
        took_ns: Inside of the process, in nanoseconds.
    """

    tokens: tuple[int, ...]
    confidence: float | None
    took_ns: int


class Generating:
    """A process that generates on one thread; a context manager that starts and ends it.

    Args:
        python: The interpreter of its environment.
        module: A module that serves by `answering.serve`.
        arguments: Its words.
        log: Gets what it says on standard error.

    Attributes:
        version: Distribution and version of what generates, once it was started.
    """

    version = ""

    def __init__(self, python: Path | str, module: str, *arguments: Path, log: Path) -> None:
        self._name = module.rpartition(".")[2]
        self._line: Sequence[str] = [str(python), "-m", module, *map(str, arguments)]
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        paths = [_ROOT, os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, paths))
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": path},
            )
        try:
            self.version = self._hear()["version"]
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def __call__(self, request: Request) -> Timed:
        """Let it generate.

        Raises:
            BenchmarkError: It ended, or did not answer in time.
        """
        process = self._running
        assert process.stdin is not None  # noqa: S101 - narrows the type
        try:
            process.stdin.write(json.dumps(request._asdict()) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: its last words say why
        said = self._hear()
        return Timed(tuple(said["tokens"]), said["confidence"], said["took_ns"])

    @property
    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise BenchmarkError(f"expected {self._name} to run, it was not started")
        return self._process

    def _hear(self) -> dict[str, Any]:
        process = self._running
        assert process.stdout is not None  # noqa: S101 - narrows the type
        ends = threading.Timer(_LONGEST_S, process.kill)
        ends.start()
        try:
            line = process.stdout.readline()
        finally:
            ends.cancel()
        if line:
            heard: dict[str, Any] = json.loads(line)
            return heard
        process.wait()
        words = self._log.read_text(encoding="utf-8", errors="replace").strip()
        last = (words or f"no answer within {_LONGEST_S:g} s").splitlines()[-1]
        raise BenchmarkError(f"expected an answer of {self._name}, it ended: {last}")
