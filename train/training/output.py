"""What every command that writes a checkpoint says of its output folder and its settings."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.files import require_free
from train.errors import FullDiskError, OutputError, TrainingError

_FULL_BYTES = 1 << 20  # less than that free, and a failed write failed for want of space


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` where `out` is a file, or a folder that may not be replaced."""
    require_free(out, overwrite=overwrite, error=OutputError)


def settings_record(command: str, settings: Any) -> dict[str, Any]:
    """Return what `training.json` says of the settings."""
    values = dataclasses.asdict(settings)
    return {
        "command": command,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in values.items()},
    }


@contextlib.contextmanager
def explain_full_disk(folder: Path, and_then: str = " and go on with --resume") -> Iterator[None]:
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
