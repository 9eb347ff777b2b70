"""Asks a checkpoint what the rivals want to know, once, and keeps the answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.data.tasks import Task
from train.language.answers import Answers, answer_split, load_answers, save_answers
from train.language.rivals import Asking, Heard
from train.models import LanguageModel
from train.scores import SPLITS


def hear(
    model: LanguageModel,
    task: Task,
    asking: Asking,
    large: Mapping[str, npt.NDArray[np.bool_]],
    folder: Path,
) -> Heard:
    """Ask a checkpoint about validation and test, or read what it said before.

    Args:
        model: The checkpoint.
        task: What to ask.
        asking: How.
        large: By split: where M_L is right, bool [n].
        folder: Where the answers of this checkpoint to this asking lie, or are to lie.

    Raises:
        CheckpointError: The tokenizer has no token for the answer to watch.
        DataError: Answers that lie there are damaged.
    """
    answers = {split: _answers(model, task, split, asking, folder) for split in SPLITS}
    return Heard(answers, large, model.vocabulary, task.answers)


def large_right(model: LanguageModel, task: Task, folder: Path) -> dict[str, npt.NDArray[np.bool_]]:
    """Return where M_L is right on validation and test, bool [n] each; see `hear`.

    Args:
        model: M_L.
        task: What to ask.
        folder: Where its answers lie, or are to lie.
    """
    asking = Asking("large")
    return {split: _answers(model, task, split, asking, folder).right for split in SPLITS}


def _answers(model: LanguageModel, task: Task, split: str, asking: Asking, folder: Path) -> Answers:
    examples = task.splits()[split]
    path = folder / f"{split}-answers.npz"
    if path.exists():
        found = load_answers(path)
        if found.ids == tuple(example.id for example in examples):
            return found  # of another limit they would be others
    answers = answer_split(
        model, task, examples, instruction=asking.instruction, watch_text=asking.watch
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_answers(path, answers)
    return answers
