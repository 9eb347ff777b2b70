"""Chooses a decoder's threshold on its answers to the prompts of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.language import Decoder, Generation
from export.calibration.sample import Sample
from export.calibration.threshold import calibrate, goal_of
from export.commands.goal import TaskGoalSettings
from export.errors import CalibrationError
from train.data.tasks import Example, Task, load_task
from train.models import open_language_model


@dataclass(frozen=True)
class CalibratedDecoder:
    """A decoder with its threshold, and the answers on which that was chosen.

    Attributes:
        decoder: The decoder.
        threshold: The confidence from which it answers itself.
        record: The calibration record, for the metadata; None for a threshold set by hand.
        answers: Complete answers to the calibration prompts; none for a threshold set by hand.
        accuracy: Share of right answers.
        sample: The answers as a sample; None for a threshold set by hand.
    """

    decoder: Decoder
    threshold: float
    record: dict[str, Any] | None = None
    answers: Sequence[Generation] = ()
    accuracy: float = float("nan")
    sample: Sample | None = None


def calibration_task(settings: TaskGoalSettings) -> Task | None:
    """Return the task to choose the threshold on, None for a threshold set by hand.

    Raises:
        CalibrationError: The task has no examples in the split.
        DataError: There is no such task.
    """
    if settings.calibrate is None:
        return None
    return load_examples(
        settings.split,
        settings.calibrate,
        data=settings.data,
        seed=settings.seed,
        limit=settings.limit,
    )


def load_examples(split: str, name: str, **options: Any) -> Task:
    """Load a task that has examples in a split, with options of `load_task`.

    Raises:
        CalibrationError: The task has no examples in the split.
        DataError: There is no such task.
    """
    task = load_task(name, **options)
    if not task.splits()[split]:
        raise CalibrationError(
            f"expected examples in {split} of {name}, got none: use another --split"
        )
    return task


def choose_threshold(
    settings: TaskGoalSettings, decoder: Decoder, task: Task | None
) -> CalibratedDecoder:
    """Choose the threshold on the answers of the graph itself, unless it was set by hand.

    Raises:
        CalibrationError: The answers cannot give a threshold for the goal.
    """
    if settings.threshold is not None or task is None:
        assert settings.threshold is not None  # noqa: S101 - the settings hold a threshold or data
        return CalibratedDecoder(decoder, float(np.float32(settings.threshold)))
    extra = decoder.metadata.extra
    goal = goal_of(settings, extra)
    examples = task.splits()[settings.split]
    answers = decoder.generate([e.prompt for e in examples], stop_when_certain=False)
    right = np.array([task.is_right(a.text, e) for a, e in zip(answers, examples, strict=True)])
    sample = Sample(
        np.array([answer.confidence for answer in answers], np.float32),
        right,
        _large_right(settings, task, examples),
    )
    threshold, record = calibrate(
        goal, sample, data=str(settings.calibrate), split=settings.split, extra=extra
    )
    return CalibratedDecoder(decoder, threshold, record, answers, float(right.mean()), sample)


def _large_right(settings: TaskGoalSettings, task: Task, examples: Sequence[Example]) -> Any:
    """Return bool [n], True where M_L is right, or None without `--large`."""
    if settings.large is None:
        return None
    large = open_language_model(settings.large)
    prompts = [example.prompt for example in examples]
    texts = large.generate(prompts, task.max_new_tokens).texts
    return np.array([task.is_right(text, e) for text, e in zip(texts, examples, strict=True)])
