"""Asks the checkpoints of the demo in PyTorch, and keeps what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.data.tasks import Task
from train.language.answers import Answers, answer_split, load_answers, save_answers
from train.language.rivals import Asking, Heard
from train.models import open_language_model
from train.scores import SPLITS


def answers(model: Path, task: Task, folder: Path, asking: Asking) -> dict[str, Answers]:
    """Return what a model says to validation and test; kept, so that they can be read again.

    Args:
        model: The checkpoint.
        task: Whose splits.
        folder: Of the seed: its answers are written there.
        asking: What is asked, and the model's name.
    """
    opened = open_language_model(model)
    found = {}
    name = asking.model if asking.instruction is None else f"{asking.model}-{_slug(asking)}"
    for split in SPLITS:
        found[split] = answer_split(
            opened,
            task,
            task.splits()[split],
            instruction=asking.instruction,
            watch_text=asking.watch,
        )
        path = _file(folder, name, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_answers(path, found[split])
    return found


def heard(model: Path, task: Task, asking: Asking, large: Mapping[str, Any], folder: Path) -> Heard:
    """Return the same beside where M_L is right; see `answers`."""
    found = answers(model, task, folder, asking)
    return Heard(found, large, open_language_model(model).vocabulary, task.answers)


def read_answers(folder: Path, model: str) -> Answers:
    """Return what a model of a seed said to the test set.

    Raises:
        DataError: The file is missing or damaged.
    """
    return load_answers(_file(folder, model, "test"))


def _file(folder: Path, name: str, split: str) -> Path:
    return folder / "answers" / f"{name}-{split}.npz"


def _slug(asking: Asking) -> str:
    return "answer-n" if asking.watch else "reduce-confidence"
