"""Opens a language model for training, and finds a learning rate that suits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.models import LanguageModel, open_language_model
from train.models.training import FILE

_WHOLE, _ADAPTERS, _RANDOM = 1e-5, 1e-4, 3e-3
_SECOND_STAGE = 0.1
NEW = "new-lm"
"""The command that made a model with random weights."""


def open_for_training(folder: Path, settings: Any) -> LanguageModel:
    """Open a language model; what LoRA leaves as it is may lie in half precision.

    Args:
        folder: Its folder.
        settings: Of the training, with `lora` and `precision`.

    Raises:
        CheckpointError: It does not open.
    """
    frozen = settings.lora is not None and settings.precision == "bf16"
    return open_language_model(folder, weights="bf16" if frozen else "fp32")


def first_rate(folder: Path, *, lora: bool) -> float:
    """Return the peak learning rate of stage 1 where nobody said one."""
    if _record(folder).get("command") == NEW:
        return _RANDOM
    return _ADAPTERS if lora else _WHOLE


def second_rate(folder: Path, *, lora: bool) -> float:
    """Return the peak learning rate of stage 2 where nobody said one: a tenth of stage 1's."""
    first = _record(folder).get("learning_rate")
    return _SECOND_STAGE * (first if isinstance(first, float) else first_rate(folder, lora=lora))


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
