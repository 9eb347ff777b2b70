"""The demo's language models: how they are trained and tuned, and their answers in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands.cascade import DemoSettings
from train.comparison.scores import SPLITS
from train.data.tasks import Task
from train.language.answers import Answers, answer_split, load_answers, save_answers
from train.language.rivals import CONTROL, UNTUNED, Query, Responses
from train.language.settings import (
    FitLanguageSettings,
    NewLanguageSettings,
    TuneLanguageSettings,
)
from train.language.stages import fit_model, tune_model
from train.models import open_language_model

ALPHAS = (0.3, 0.5, 0.6)
"""Settings of Gatekeeper; validation chooses among them."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A Gemma that the demo makes itself, small enough for minutes on a CPU.

    Attributes:
        shape: Settings of `NewLanguageSettings`.
        epochs: Epochs of stage 1.
    """

    shape: dict[str, Any]
    epochs: int


SMALL = Recipe(
    shape={"width": 12, "layers": 1, "heads": 1, "kv_heads": 1, "inner": 48, "vocabulary": 2900},
    epochs=10,
)
"""37,000 weights."""
LARGE = Recipe(
    shape={"width": 96, "layers": 2, "heads": 4, "kv_heads": 1, "inner": 256, "vocabulary": 2900},
    epochs=6,
)
"""470,000 weights."""


def tuned_name(alpha: float) -> str:
    """Return the name of a model tuned with Gatekeeper."""
    return f"gatekeeper-{alpha:g}"


MODELS = (UNTUNED, CONTROL, *map(tuned_name, ALPHAS))
"""Names of the checkpoints of every seed."""


def checkpoint(settings: DemoSettings, model: str, folder: Path) -> Path:
    """Return the folder of a seed's model.

    Args:
        settings: Settings of the demo.
        model: One of `MODELS`.
        folder: Folder of the seed.
    """
    if model != UNTUNED:
        return folder / model
    return folder / "small" if settings.small is None else Path(settings.small)


def train_new(settings: DemoSettings, task: Task, recipe: Recipe, out: Path, seed: int) -> Path:
    """Train a new model on the task; return its folder."""
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    start = out.parent / f"{out.name}-new"
    NewLanguageSettings(
        architecture="gemma",
        context=128,
        task=settings.task,
        data=settings.data,
        seed=seed,
        out=start,
        **recipe.shape,
    ).run()
    fitting = FitLanguageSettings(
        checkpoint=start,
        task=settings.task,
        out=out,
        epochs=recipe.epochs,
        patience=recipe.epochs,
        batch_size=_BATCH,
        seed=seed,
    )
    fit_model(fitting, open_language_model(start), task)
    return out


def tune_models(settings: DemoSettings, task: Task, small: Path, folder: Path, seed: int) -> None:
    """Tune M_S into the control and into every setting of Gatekeeper, all with equal steps."""
    assert settings.task is not None  # noqa: S101 - narrows the type: the demo of a task
    for name in MODELS[1:]:
        objective: dict[str, Any] = {"objective": "cross_entropy"}
        if name != CONTROL:
            objective = {"alpha": float(name.removeprefix("gatekeeper-"))}
        tuning = TuneLanguageSettings(
            checkpoint=small,
            task=settings.task,
            out=folder / name,
            batch_size=_BATCH,
            steps=settings.steps,
            seed=seed,
            **objective,
        )
        tune_model(tuning, open_language_model(small), task)


def answer_splits(model: Path, task: Task, folder: Path, query: Query) -> dict[str, Answers]:
    """Return a model's answers to validation and test, and write them to the seed's folder.

    Args:
        model: Folder of the checkpoint.
        task: The task.
        folder: Folder of the seed.
        query: The model's name, and the instruction.
    """
    opened = open_language_model(model)
    name = query.model
    if query.instruction is not None:
        name += "-answer-n" if query.watch else "-reduce-confidence"
    answers = {}
    for split in SPLITS:
        answers[split] = answer_split(
            opened,
            task,
            task.splits()[split],
            instruction=query.instruction,
            watch_text=query.watch,
        )
        path = _answers_file(folder, name, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_answers(path, answers[split])
    return answers


def interview(
    model: Path, task: Task, query: Query, large: Mapping[str, Any], folder: Path
) -> Responses:
    """Return a model's answers together with M_L's correctness, for the rivals to read.

    Args:
        model: Folder of the checkpoint.
        task: The task.
        query: The model's name, and the instruction.
        large: Correctness of M_L by split.
        folder: Folder of the seed.
    """
    answers = answer_splits(model, task, folder, query)
    return Responses(answers, large, open_language_model(model).vocabulary, task.answers)


def read_answers(folder: Path, model: str) -> Answers:
    """Return the test answers that a seed's model gave.

    Raises:
        DataError: The file is missing or damaged.
    """
    return load_answers(_answers_file(folder, model, "test"))


def _answers_file(folder: Path, name: str, split: str) -> Path:
    return folder / "answers" / f"{name}-{split}.npz"
