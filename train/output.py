"""What every command that writes a checkpoint says of its output folder and its settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from train.errors import OutputError


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
