"""What a checkpoint's `training.json` says of the data it was made with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "training.json"
_HOLDOUT = "holdout"  # stage 2 on half of validation


@dataclass(frozen=True)
class Training:
    """Which inputs had a part in making a model.

    Attributes:
        data: Data set name, folder or file; of a language model its task.
        fitted_on: Splits whose inputs changed the weights.
        chosen_on: Splits that decided when to stop.
    """

    data: str
    fitted_on: tuple[str, ...]
    chosen_on: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def training_of(folder: Path) -> Training | None:
    """Return what is known of a checkpoint's training; None where it is not this toolkit's."""
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        settings = record["settings"]
        # Of a language model its task, beside which `data` may say where that lies.
        data = settings["task"] if "task" in settings else settings["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(data, str):
        return None
    held_out = ("validation",) if settings.get("stage2_data") == _HOLDOUT else ()
    return Training(data, ("train", *held_out), ("validation",))
