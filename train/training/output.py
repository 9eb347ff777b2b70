"""The output folder of a training command, and the folder of its unfinished work."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.files import require_free, write_atomically
from train.errors import DataError, FullDiskError, OutputError, TrainingError

_FULL_BYTES = 1 << 20  # with less free space than this, a full disk is the cause of a failed write
_DATA_FILE = "data.sha256"


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` if `out` is a file, or a folder that may not be replaced."""
    require_free(out, overwrite=overwrite, error=OutputError)


def settings_record(command: str, settings: Any) -> dict[str, Any]:
    """Return the command and its settings as `training.json` holds them."""
    values = dataclasses.asdict(settings)
    return {
        "command": command,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in values.items()},
    }


@contextlib.contextmanager
def explain_full_disk(
    folder: Path, and_then: str = " and continue with --resume"
) -> Iterator[None]:
    """Raise `FullDiskError` for a failed write in `folder` if no space is left."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        # torch and safetensors raise classes of their own that do not name the cause.
        if not folder.exists() or shutil.disk_usage(folder).free >= _FULL_BYTES:
            raise
        raise FullDiskError(
            f"no space is left in {folder}: make room{and_then} ({error!s:.80})"
        ) from None


def work_folder(out: Path) -> Path:
    """Return the folder of a run's work until `out` is written."""
    return out.parent / f".{out.name}.training"


def require_same_data(work: Path, fingerprint: str) -> None:
    """Refuse to resume the run in `work` with data of another fingerprint.

    Raises:
        DataError: The data have changed since.
    """
    file = work / _DATA_FILE
    if not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(file, fingerprint)
    elif file.read_text(encoding="utf-8") != fingerprint:
        raise DataError(
            f"expected the data with which the run in {work} was started, they have changed since: "
            "leave --resume out to start again"
        )
