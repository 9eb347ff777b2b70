"""The two stages of training a language model: fit with cross-entropy, tune with Gatekeeper."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edge_runtime.reading import read_json
from train.data.tasks import Example, Task, load_task
from train.language.encoding import IGNORED, TokenData, answer_tokens
from train.language.guard import WATCHED
from train.language.loop import Recipe, train_language_model
from train.language.settings import FitLanguageSettings, TrainingFlags, TuneLanguageSettings
from train.models import LanguageModel, open_language_model
from train.models.checkpoint import FILE
from train.training.health import Standing, report, warnings_before
from train.training.output import refuse_existing, settings_record
from train.training.schedule import Schedule, move_model

_WHOLE_RATE, _ADAPTER_RATE, _RANDOM_RATE = 1e-5, 1e-4, 3e-3
_STAGE2_SHARE = 0.1
_TOKEN_EXAMPLES = 1024
_BATCH = 32


def fit(settings: FitLanguageSettings) -> None:
    """Open model and task, fit the model, and write the checkpoint."""
    task = _load_task(settings)
    fit_model(settings, _open(settings), task)


def fit_model(settings: FitLanguageSettings, start: LanguageModel, task: Task) -> None:
    """Fit a model on a task, and write the checkpoint.

    Args:
        settings: The settings; their `checkpoint` and `task` are not opened.
        start: The model; its weights change.
        task: The task, with a training and a validation split.

    Raises:
        TrainError: As `train_language_model`.
    """
    schedule = _schedule(
        settings,
        settings.learning_rate or default_rate(settings, stage=1),
        epochs=settings.epochs,
        patience=settings.patience,
        weight_decay=settings.weight_decay,
    )
    recipe = Recipe(
        alpha=None,
        schedule=schedule,
        tokens=settings.tokens,
        normalize="token",
        lora=settings.lora,
    )
    _train(settings, "fit-lm", start, task, recipe)


def tune(settings: TuneLanguageSettings) -> None:
    """Open models and task, tune M_S, and write the checkpoint."""
    task = _load_task(settings)
    large = None if settings.large is None else open_language_model(settings.large)
    tune_model(settings, _open(settings), task, large)


def tune_model(
    settings: TuneLanguageSettings,
    start: LanguageModel,
    task: Task,
    large: LanguageModel | None = None,
) -> None:
    """Tune a model on a task, write the checkpoint, and print what tuning changed.

    Args:
        settings: The settings; their `checkpoint`, `task` and `large` are not opened.
        start: M_S; its weights change.
        task: The task; trained on `train`, watched on `validation`.
        large: M_L, whose answers count in the joint accuracy that is printed.

    Raises:
        TrainError: As `train_language_model`.
    """
    refuse_existing(settings.out, overwrite=settings.overwrite)
    move_model(start.model, settings.device)
    if settings.stage2_data == "holdout":
        task = _hold_out(task)
    if settings.objective == "gatekeeper":
        right = right_tokens(start, task.train[:_TOKEN_EXAMPLES])
        remedy = "--stage2-data holdout"
        for line in warnings_before(settings.alpha, right, what="tokens", remedy=remedy):
            print(f"warning: {line}", file=sys.stderr)
    examples = task.limited(WATCHED).validation
    before = _standing(start, task, examples)
    tuned = _train(settings, "tune-lm", start, task, tuning_recipe(settings))
    after = _standing(tuned, task, examples)
    large_right = None if large is None else _standing(large, task, examples).right
    report(before, after, large_right, f"validation, {len(examples)} examples")


def tuning_recipe(settings: TuneLanguageSettings) -> Recipe:
    """Return the recipe of stage 2."""
    rate = settings.learning_rate or default_rate(settings, stage=2)
    return Recipe(
        alpha=settings.alpha if settings.objective == "gatekeeper" else None,
        schedule=_schedule(settings, rate, steps=settings.steps),
        tokens=settings.tokens,
        normalize=settings.normalize,
        lora=settings.lora,
        guarded=settings.guard,
    )


def default_rate(settings: TrainingFlags, *, stage: int) -> float:
    """Return the default peak learning rate; in stage 2 it is a tenth of stage 1's."""
    record = _record(settings.checkpoint)
    rate = _WHOLE_RATE if settings.lora is None else _ADAPTER_RATE
    if record.get("command") == "new-lm":
        rate = _RANDOM_RATE
    if stage == 1:
        return rate
    used = record.get("learning_rate")
    return _STAGE2_SHARE * (used if isinstance(used, float) else rate)


def right_tokens(model: LanguageModel, examples: Sequence[Example]) -> npt.NDArray[np.bool_]:
    """Return which tokens of the completions a model predicts from those before, bool [tokens]."""
    data = TokenData(model, examples)
    parts = []
    with torch.inference_mode():
        for first in range(0, len(data), _BATCH):
            batch = data.__getitems__(range(first, min(first + _BATCH, len(data))))
            batch = {name: values.to(model.model.device) for name, values in batch.items()}
            labels = batch.pop("labels")
            predicted = model.model(**batch).logits.argmax(dim=-1)
            parts.append((predicted == labels)[labels != IGNORED].cpu().numpy())
    return np.concatenate(parts)


def _load_task(settings: TrainingFlags) -> Task:
    return load_task(
        settings.task,
        data=settings.data,
        shots=settings.shots,
        seed=settings.seed,
        limit=settings.limit,
    )


def _open(settings: TrainingFlags) -> LanguageModel:
    # The weights that LoRA leaves as they are may stay in half precision.
    frozen = settings.lora is not None and settings.precision == "bf16"
    return open_language_model(settings.checkpoint, weights="bf16" if frozen else "fp32")


def _schedule(
    settings: TrainingFlags, rate: float, *, weight_decay: float = 0.0, **length: Any
) -> Schedule:
    return Schedule(
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        learning_rate=rate,
        weight_decay=weight_decay,
        scheduler="cosine",
        precision=settings.precision,
        device=settings.device,
        checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        **length,
    )


def _train(
    settings: FitLanguageSettings | TuneLanguageSettings,
    command: str,
    start: LanguageModel,
    task: Task,
    recipe: Recipe,
) -> LanguageModel:
    return train_language_model(
        start,
        task,
        recipe,
        out=settings.out,
        resume=settings.resume,
        overwrite=settings.overwrite,
        record={
            **settings_record(command, settings),
            "learning_rate": recipe.schedule.learning_rate,
        },
    )


def _hold_out(task: Task) -> Task:
    """Return a task that trains on every other validation example and watches the rest."""
    held, rest = task.validation[::2], task.validation[1::2]
    print(
        f"stage 2 on {len(held)} held-out examples instead of {len(task.train)}; validation "
        f"shrinks from {len(task.validation)} to {len(rest)} examples",
        flush=True,
    )
    return dataclasses.replace(task, train=held, validation=rest)


def _standing(model: LanguageModel, task: Task, examples: Sequence[Example]) -> Standing:
    generated = model.generate([e.prompt for e in examples], answer_tokens(model.tokenizer, task))
    right = [task.is_right(text, e) for text, e in zip(generated.texts, examples, strict=True)]
    return Standing(generated.confidence("neg_entropy"), np.array(right, float))


def _record(folder: Path) -> dict[str, Any]:
    """Return the `training.json` of a checkpoint; empty if it is missing or unreadable."""
    try:
        record = read_json(folder / FILE)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
