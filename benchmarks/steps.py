"""What every long measurement says and does around its work."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.errors import BenchmarkError


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Say what is going on, and how long it took."""
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    yield
    print(f"== {name}: {time.perf_counter() - start:.1f} s", flush=True)


def empty_folder(out: Path, *, overwrite: bool) -> None:
    """Make an empty result folder.

    Raises:
        BenchmarkError: It holds something, and may not be replaced.
    """
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise BenchmarkError(f"expected no results at {out} yet: --overwrite replaces them")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
