"""Stage 2: tunes a fitted classifier on chosen data, by a chosen judgement of right and wrong."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_runtime import metrics
from train import data
from train.classifier.checkpoints import LargeAnswers, open_for, right_of
from train.classifier.correctness import EvalModeRight, out_of_fold_right
from train.classifier.loop import Watcher, train_checkpoint
from train.classifier.plan import tuning_rate
from train.classifier.settings import TuneSettings
from train.data import LabelledData, Splits
from train.data.labelled import split_stratified
from train.models import Checkpoint
from train.objectives import (
    Auxiliary,
    CascadeAware,
    CrossEntropy,
    DeepGamblers,
    Gatekeeper,
    Objective,
    SelfAdaptive,
)
from train.objectives.abstention import ROW
from train.objectives.basic import LARGE_RIGHT, RIGHT
from train.training.augment import choose
from train.training.health import Standing, report, warnings_before
from train.training.output import refuse_existing, settings_record
from train.training.schedule import Schedule, default_batch_size, move_to

_KNOWN_BY_HEART = 0.98
_HELD_OUT = 0.5
Flags = npt.NDArray[np.bool_]


@dataclass
class _Plan:
    """The inputs of one tuning.

    Attributes:
        splits: The data.
        schedule: Length and rate of the training.
        right: bool [n], which training inputs M_S gets right before tuning.
        columns: What the objective knows of each training row, by name.
        watchers: Makers of callbacks.
    """

    splits: Splits
    schedule: Schedule
    right: Flags
    columns: dict[str, Tensor] = field(default_factory=dict)
    watchers: list[Watcher] = field(default_factory=list)


def tune(settings: TuneSettings) -> None:
    """Tune a checkpoint as the settings say, and write the result."""
    splits = data.load(
        settings.data, limit=settings.limit, skip_unreadable=settings.skip_unreadable
    )
    start = open_for(settings.checkpoint, splits.train, settings.data)
    splits = data.with_extra(splits, settings.extra, limit=settings.limit)
    large = None
    if settings.large is not None:
        model = open_for(settings.large, splits.train, settings.data, device=settings.device)
        parts = [splits.validation]
        if settings.objective == "cascade_aware":
            parts.append(splits.train)
        large = LargeAnswers.of(model, *parts)
    tune_checkpoint(settings, start, splits, large)


def tune_checkpoint(
    settings: TuneSettings, start: Checkpoint, splits: Splits, large: LargeAnswers | None = None
) -> str | None:
    """Tune an open checkpoint, write it to `settings.out`, and print what changed.

    Args:
        settings: Flags of the command.
        start: M_S; its weights are changed.
        splits: Tuned on `train` (or what `stage2_data` makes of it), watched on `validation`.
        large: The inputs that M_L gets right, where known.

    Returns:
        Why the guard ended the run, or None.

    Raises:
        TrainError: As `train_checkpoint`.
    """
    refuse_existing(settings.out, overwrite=settings.overwrite)
    rate = settings.learning_rate or tuning_rate(start)
    settings = dataclasses.replace(settings, learning_rate=rate)
    move_to(start, settings.device)
    plan = _plan(settings, start, splits)
    validation = plan.splits.validation
    before = _standing(start, validation)
    if settings.objective == "gatekeeper":
        for line in warnings_before(settings.alpha, plan.right):
            print(f"warning: {line}", file=sys.stderr)
    if large is not None and settings.objective == "cascade_aware":
        plan.columns[LARGE_RIGHT] = torch.from_numpy(large.flags(plan.splits.train))
    if settings.objective == "self_adaptive":
        plan.columns[ROW] = torch.arange(len(plan.splits.train))
    reason = train_checkpoint(
        start,
        plan.splits,
        _objective(settings, plan),
        plan.schedule,
        out=settings.out,
        resume=settings.resume,
        overwrite=settings.overwrite,
        record=settings_record("tune", settings),
        columns=plan.columns,
        watchers=plan.watchers,
        guarded=settings.guard,
    )
    shutil.rmtree(_folds(settings.out), ignore_errors=True)
    after = _standing(move_to(start, settings.device), validation)
    report(before, after, None if large is None else large.flags(validation).astype(float))
    return reason


def _plan(settings: TuneSettings, start: Checkpoint, splits: Splits) -> _Plan:
    assert settings.learning_rate is not None  # noqa: S101 - `tune_checkpoint` chose one
    schedule = Schedule(
        epochs=settings.epochs,
        batch_size=settings.batch_size or default_batch_size(len(splits.train)),
        accumulation=settings.accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=0.0,
        scheduler="cosine",
        precision=settings.precision,
        device=settings.device,
        compile=settings.compile,
        seed=settings.seed,
    )
    plan = _Plan(splits, schedule, right_of(start, splits.train))
    kind = settings.stage2_data
    if kind == "auto":
        kind = _choose_data(settings, start, plan.right)
    if kind == "augment":
        augment = choose(settings.augment, splits.train, settings.seed)
        plan.schedule = dataclasses.replace(schedule, augment=augment)
    if kind == "holdout":
        plan.splits = _hold_out(splits, settings.seed)
        plan.right = right_of(start, plan.splits.train)
    if kind == "crossfit" and settings.objective == "gatekeeper":
        plan.right = out_of_fold_right(start, splits.train, schedule, _folds(settings.out))
        plan.columns[RIGHT] = torch.from_numpy(plan.right)
    elif settings.correctness == "eval":
        plan.columns[RIGHT] = torch.zeros(len(plan.splits.train), dtype=torch.bool)
        plan.watchers.append(EvalModeRight)
    return plan


def _choose_data(
    settings: TuneSettings, start: Checkpoint, right: Flags
) -> Literal["same", "augment"]:
    """Choose augmented data where M_S knows its pictures by heart: they hold no doubt to learn."""
    if settings.augment != "auto":
        return "augment"
    by_heart = right.mean() >= _KNOWN_BY_HEART and start.kind == "image"
    kind: Literal["same", "augment"] = "augment" if by_heart else "same"
    accuracy = f"M_S is right on {right.mean():.1%} of its training data"
    print(f"stage 2 data: {kind} ({accuracy})", flush=True)
    return kind


def _hold_out(splits: Splits, seed: int) -> Splits:
    rows, rest = split_stratified(splits.validation.labels, _HELD_OUT, seed)
    print(
        f"stage 2 trains on {len(rows)} held-out inputs, not on the {len(splits.train)} of train; "
        f"{len(rest)} of {len(splits.validation)} remain for validation",
        flush=True,
    )
    return Splits(splits.validation.take(rows), splits.validation.take(rest), splits.test)


def _folds(out: Path) -> Path:
    return out.parent / f".{out.name}.folds"


def _objective(settings: TuneSettings, plan: _Plan) -> Objective:
    makers: dict[str, Any] = {
        "gatekeeper": lambda: Gatekeeper(settings.alpha, by_column=RIGHT in plan.columns),
        "cross_entropy": CrossEntropy,
        "label_smoothing": lambda: CrossEntropy(settings.smoothing),
        "cascade_aware": CascadeAware,
        "deep_gamblers": lambda: DeepGamblers(settings.payoff),
        "self_adaptive": lambda: SelfAdaptive(len(plan.splits.train), settings.momentum),
    }
    objective: Objective = makers[settings.objective]()
    return Auxiliary(objective) if settings.head == "auxiliary" else objective


def _standing(checkpoint: Checkpoint, part: LabelledData) -> Standing:
    logits = checkpoint.predict(part.inputs)
    right = (logits.argmax(axis=-1) == part.labels).astype(float)
    return Standing(metrics.max_softmax(logits), right)
