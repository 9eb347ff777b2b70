"""Stage 2: which data to tune on, who counts as right in them, and what came of it."""

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
from train.classifier.checkpoints import LargeAnswers, right_of
from train.classifier.correctness import EvalModeRight, out_of_fold_right
from train.classifier.loop import Watcher, train_checkpoint
from train.classifier.tune import TuneSettings
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

_SATURATED = 0.98
_HELD_OUT = 0.5
Flags = npt.NDArray[np.bool_]


@dataclass
class _Plan:
    """What a tuning works with; `right` says what M_S gets right of its data before."""

    splits: Splits
    schedule: Schedule
    right: Flags
    columns: dict[str, Tensor] = field(default_factory=dict)
    watchers: list[Watcher] = field(default_factory=list)


def tune(
    settings: TuneSettings, start: Checkpoint, splits: Splits, large: LargeAnswers | None = None
) -> str | None:
    """Tune a checkpoint and write it to `settings.out`; say what was found on the way.

    Args:
        settings: How.
        start: M_S; its weights are changed.
        splits: Tuned on `train` (or what `stage2_data` makes of it), watched on `validation`.
        large: What M_L gets right, where it is known.

    Returns:
        Why the guard ended the run, or None.

    Raises:
        TrainError: As `train_checkpoint`.
    """
    refuse_existing(settings.out, overwrite=settings.overwrite)
    move_to(start, settings.device)
    plan = _plan(settings, start, splits)
    before = _standing(start, plan.splits.validation)
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
    validation = plan.splits.validation
    after = _standing(move_to(start, settings.device), validation)
    report(before, after, None if large is None else large.flags(validation).astype(float))
    return reason


def _plan(settings: TuneSettings, start: Checkpoint, splits: Splits) -> _Plan:
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
        kind = _fitting(settings, start, plan.right)
    if kind == "augment":
        augment = choose(settings.augment, splits.train, settings.seed)
        plan.schedule = dataclasses.replace(schedule, augment=augment)
    if kind == "holdout":
        plan.splits = _held_out(splits, settings.seed)
        plan.right = right_of(start, plan.splits.train)
    if kind == "crossfit" and settings.objective == "gatekeeper":
        plan.right = out_of_fold_right(start, splits.train, schedule, _folds(settings.out))
        plan.columns[RIGHT] = torch.from_numpy(plan.right)
    elif settings.correctness == "eval":
        plan.columns[RIGHT] = torch.zeros(len(plan.splits.train), dtype=torch.bool)
        plan.watchers.append(EvalModeRight)
    return plan


def _fitting(settings: TuneSettings, start: Checkpoint, right: Flags) -> Literal["same", "augment"]:
    """Choose the stage 2 data: where M_S knows its pictures by heart, only others teach doubt."""
    if settings.augment != "auto":
        return "augment"
    by_heart = right.mean() >= _SATURATED and start.kind == "image"
    kind: Literal["same", "augment"] = "augment" if by_heart else "same"
    accuracy = f"M_S is right on {right.mean():.1%} of its training data"
    print(f"stage 2 data: {kind} ({accuracy})", flush=True)
    return kind


def _held_out(splits: Splits, seed: int) -> Splits:
    rows, rest = split_stratified(splits.validation.labels, _HELD_OUT, seed)
    print(
        f"stage 2 on {len(rows)} held-out inputs instead of {len(splits.train)}; that costs "
        f"validation {len(rows)} of its {len(splits.validation)}",
        flush=True,
    )
    return Splits(splits.validation.take(rows), splits.validation.take(rest), splits.test)


def _folds(out: Path) -> Path:
    return out.parent / f".{out.name}.folds"


def _objective(settings: TuneSettings, plan: _Plan) -> Objective:
    made: dict[str, Any] = {
        "gatekeeper": lambda: Gatekeeper(settings.alpha, by_column=RIGHT in plan.columns),
        "cross_entropy": CrossEntropy,
        "label_smoothing": lambda: CrossEntropy(settings.smoothing),
        "cascade_aware": CascadeAware,
        "deep_gamblers": lambda: DeepGamblers(settings.payoff),
        "self_adaptive": lambda: SelfAdaptive(len(plan.splits.train), settings.momentum),
    }
    objective: Objective = made[settings.objective]()
    return Auxiliary(objective) if settings.head == "auxiliary" else objective


def _standing(checkpoint: Checkpoint, data: LabelledData) -> Standing:
    logits = checkpoint.predict(data.inputs)
    right = (logits.argmax(axis=-1) == data.labels).astype(float)
    return Standing(metrics.max_softmax(logits), right)
