"""What every command that writes a checkpoint says of its output folder and its settings."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.errors import FullDiskError, OutputError, TrainingError

_FULL_BYTES = 1 << 20  # less than that free, and a failed write failed for want of space


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` where `out` is a file, or a folder that holds something already."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"expected a folder to write to, {out} is a file")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise OutputError(f"expected nothing at {out} yet: --overwrite replaces it")


def settings_record(command: str, settings: Any) -> dict[str, Any]:
    """Return what `training.json` says of the settings."""
    values = dataclasses.asdict(settings)
    return {
        "command": command,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in values.items()},
    }


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` in one step when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        yield fresh
        if out.exists():
            shutil.move(out, Path(scratch) / "old")
        fresh.rename(out)


@contextlib.contextmanager
def full_disk_in_words(folder: Path, and_then: str = " and go on with --resume") -> Iterator[None]:
    """Raise `FullDiskError` for a failed write in `folder` where no space is left."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        # torch and safetensors raise classes of their own that do not say so.
        if not folder.exists() or shutil.disk_usage(folder).free >= _FULL_BYTES:
            raise
        raise FullDiskError(
            f"no space is left in {folder}: make room{and_then} ({error!s:.80})"
        ) from None
