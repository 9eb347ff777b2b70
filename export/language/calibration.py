"""Chooses a decoder's threshold on the answers that it gives to the prompts of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.language import Decoder, Generation
from export import calibration
from export.commands.goal import TaskGoalSettings
from export.errors import CalibrationError
from export.freshness import require_fresh, was_chosen_on
from train.data.tasks import Example, Task, load_task
from train.models import open_language_model


@dataclass(frozen=True)
class Decided:
    """A threshold, and the answers it was chosen on; there are none where it was given.

    Attributes:
        decoder: What answered.
        threshold: From this confidence on it answers itself.
        record: How the threshold was chosen, for the metadata; None where it was given.
        answers: To the prompts of the calibration split, whole ones.
        accuracy: Share of them that is right.
    """

    decoder: Decoder
    threshold: float
    record: dict[str, Any] | None = None
    answers: Sequence[Generation] = ()
    accuracy: float = float("nan")


def calibration_task(settings: TaskGoalSettings) -> Task | None:
    """Return the task to choose the threshold on, None where the threshold is given.

    Raises:
        CalibrationError: It has no examples in the split.
        DataError: There is no such task.
    """
    if settings.calibrate is None:
        return None
    return task_with(
        settings.split,
        settings.calibrate,
        data=settings.data,
        seed=settings.seed,
        limit=settings.limit,
    )


def task_with(split: str, name: str, **settings: Any) -> Task:
    """Load a task that has examples in a split.

    Args:
        split: Of the task.
        name: See `load_task`.
        **settings: The same.

    Raises:
        CalibrationError: It has none.
        DataError: There is no such task.
    """
    task = load_task(name, **settings)
    if not task.splits()[split]:
        raise CalibrationError(
            f"expected examples in {split} of {name}, it has none: take another --split"
        )
    return task


def decide(settings: TaskGoalSettings, decoder: Decoder, task: Task | None) -> Decided:
    """Choose the threshold on what the graph itself answers.

    Args:
        settings: The goal, or the threshold itself.
        decoder: The graph, with any threshold.
        task: What `calibration_task` has returned.

    Raises:
        CalibrationError: The answers cannot give a threshold for the goal.
    """
    if settings.threshold is not None or task is None:
        assert settings.threshold is not None  # noqa: S101 - a threshold or a task
        return Decided(decoder, float(np.float32(settings.threshold)))
    goal, data, made_with = settings.goal(), str(settings.calibrate), decoder.metadata.extra
    if goal.is_certified:
        require_fresh(made_with, data, settings.split)
    examples = task.splits()[settings.split]
    answers = decoder.generate([e.prompt for e in examples], stop_when_certain=False)
    right = np.array([task.is_right(a.text, e) for a, e in zip(answers, examples, strict=True)])
    sample = calibration.Sample(
        np.array([answer.confidence for answer in answers], np.float32),
        right,
        _large_right(settings, task, examples),
    )
    threshold, record = calibration.calibrate(goal, sample, data=data, split=settings.split)
    if goal.is_certified and was_chosen_on(made_with, data, settings.split):
        record[calibration.REUSED] = True
    return Decided(decoder, threshold, record, answers, float(right.mean()))


def _large_right(settings: TaskGoalSettings, task: Task, examples: Sequence[Example]) -> Any:
    """Return where M_L is right, bool [n], or None where it is not named."""
    if settings.large is None:
        return None
    large = open_language_model(settings.large)
    said = large.generate([example.prompt for example in examples], task.max_new_tokens)
    return np.array([task.is_right(t, e) for t, e in zip(said.texts, examples, strict=True)])
