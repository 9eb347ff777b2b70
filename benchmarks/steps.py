"""Progress of long measurements: timed steps, stages under one bar, and an empty result folder."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from tqdm.auto import tqdm

from benchmarks.errors import BenchmarkError
from edge_runtime.files import one_line, require_free

if TYPE_CHECKING:
    from typing_extensions import Self

# Of our own commands, and of Python's `warnings`, which name the line of code.
_WARNING: Final = re.compile(r"(?:warning: |\S+:\d+: \w*Warning: )(.*)")
_BAR: Final = "{desc} |{bar:20}| stage {n_fmt} of {total_fmt} done, {elapsed}"


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Print the name of a step, and its time at the end."""
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    yield
    print(f"== {name}: {time.perf_counter() - start:.1f} s", flush=True)


class Stages:
    """The stages of a long run, shown on standard error: one bar on a terminal, else a line each.

    Commands that run inside a stage print nothing of their own but progress bars. Each of their
    warnings is shown once, on one line, however often it comes and whatever its numbers.

    Usable as a context manager, which closes the bar.

    Args:
        count: Number of stages to come.
    """

    def __init__(self, count: int) -> None:
        self._shown = _Warnings(sys.stderr)
        self._bar = tqdm(
            total=count, desc="start", bar_format=_BAR, file=sys.stderr, leave=False, disable=None
        )
        self._count, self._done = count, 0

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage while the block runs, and its time at the end."""
        self._bar.set_description_str(name)
        start = time.perf_counter()
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(cast("IO[str]", self._shown)),
        ):
            yield
        self._done += 1
        self._bar.update()
        if self._bar.disable:
            passed = time.perf_counter() - start
            print(f"{self._done}/{self._count} {name}: {passed:.1f} s", file=sys.stderr, flush=True)
        for line in self._shown.take():
            self._bar.write(f"warning: {line}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class _Warnings:
    """Standard error during a stage: keeps the warnings, and passes on everything else."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._seen: set[str] = set()
        self._new: list[str] = []
        self._is_line_open = False

    def write(self, text: str) -> int:
        if found := _WARNING.match(text):
            line = one_line(found[1])
            pattern = re.sub(r"\d+(?:[.,]\d+)*", "0", line)
            if pattern not in self._seen:
                self._new.append(line)
            self._seen.add(pattern)
        elif text != "\n" or not self._is_line_open:
            self._stream.write(text)
        self._is_line_open = found is not None and not text.endswith("\n")
        return len(text)

    def take(self) -> list[str]:
        """Return the warnings that are new since the last call."""
        lines, self._new = self._new, []
        return lines

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def empty_folder(out: Path, *, overwrite: bool) -> None:
    """Make an empty result folder.

    Raises:
        BenchmarkError: It holds something, and may not be replaced.
    """
    require_free(out, overwrite=overwrite, error=BenchmarkError)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
