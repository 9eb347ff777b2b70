"""The names of the classes of a model that does not say them itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.errors import LabelError
from train import data


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels of a text file, one a line, or of a folder's `config.json`.

    Raises:
        LabelError: There are none.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise LabelError(
            f"expected labels in {file}, got {reason}: name a text file with one label a line, or "
            "a folder with config.json"
        ) from None
    labels = _of_config(text, file) if path.is_dir() else _of_lines(text)
    if not labels:
        raise LabelError(f"expected one label a line in {file}, it is empty: fill it")
    return labels


def labels_of_data(name: str) -> tuple[str, ...]:
    """Return the labels of a data set."""
    return tuple(data.load(name).label_names)


def require_number(labels: tuple[str, ...], owner: object, classes: int, model: Path) -> None:
    """Raise `LabelError` unless there is a label for each class."""
    if len(labels) != classes:
        raise LabelError(
            f"expected {classes} labels, as many as {model} has classes, {owner} has "
            f"{len(labels)}: name others with --labels"
        )


def _of_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _of_config(text: str, file: Path) -> tuple[str, ...]:
    try:
        names: dict[str, Any] = json.loads(text)["id2label"]
        return tuple(str(names[str(i)]) for i in range(len(names)))
    except (ValueError, KeyError, TypeError):
        raise LabelError(
            f"expected id2label with the numbers from 0 in {file}, got none: name a text file "
            "with one label a line"
        ) from None
