"""Stage 1: fits an untrained classifier to labels, or to the answers of a teacher."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from train import data
from train.classifier.forecast import announce
from train.classifier.loop import train_checkpoint
from train.classifier.plan import choose_model, with_choices
from train.classifier.settings import DistillSettings, FitSettings
from train.classifier.teacher import (
    cache_file,
    open_checkpoint_teacher,
    open_server,
    teacher_logits,
)
from train.data import LabelledData, Splits
from train.errors import DataError
from train.models import Checkpoint, build
from train.objectives import CrossEntropy, Distillation
from train.objectives.basic import TEACHER
from train.training.augment import choose
from train.training.output import refuse_existing, settings_record
from train.training.schedule import Schedule, default_batch_size

_TEMPERATURE = 4.0
_Settings = TypeVar("_Settings", bound=FitSettings)


def fit(settings: FitSettings, splits: Splits | None = None) -> None:
    """Fit with cross-entropy, by default on the data of the settings; write the checkpoint.

    Raises:
        TrainError: As `train_checkpoint`, or the data or the architecture do not exist.
    """
    refuse_existing(settings.out, overwrite=settings.overwrite)
    splits = splits or _load_splits(settings)
    with data.count_unreadable(splits):
        checkpoint, settings = _start(settings, splits)
        schedule = _schedule(settings, splits.train)
        announce(checkpoint, splits, schedule, settings.model)
        train_checkpoint(
            checkpoint,
            splits,
            CrossEntropy(),
            schedule,
            out=settings.out,
            resume=settings.resume,
            overwrite=settings.overwrite,
            record=settings_record("fit", settings) | _data_record(splits),
        )


def distill(settings: DistillSettings, labelled: Splits | None = None) -> None:
    """Collect the teacher's answers, fit to them, and write the checkpoint.

    Raises:
        TrainError: As `fit`, or the teacher gives no usable answer.
    """
    # The teacher may take long: whatever would stop the training comes first.
    refuse_existing(settings.out, overwrite=settings.overwrite)
    labelled = labelled or _load_splits(settings)
    splits = data.with_unlabelled(labelled, settings.unlabelled, limit=settings.limit)
    with data.count_unreadable(splits):
        student, settings = _start(settings, splits)
        logits = _teacher_logits(settings, splits.train)
        _print_teacher(logits, splits, len(labelled.train))
        schedule = _schedule(settings, splits.train)
        announce(student, splits, schedule, settings.model)
        train_checkpoint(
            student,
            splits,
            Distillation(_temperature(settings), settings.weight),
            schedule,
            out=settings.out,
            resume=settings.resume,
            overwrite=settings.overwrite,
            record=settings_record("distill", settings) | _data_record(labelled),
            columns={TEACHER: torch.from_numpy(logits)},
        )
    cache_file(settings.out).unlink(missing_ok=True)


def build_model(settings: FitSettings, splits: Splits) -> Checkpoint:
    """Return the untrained model for a data set.

    Raises:
        CheckpointError: There is no such architecture.
        DataError: It takes another kind of input than the data set holds.
    """
    checkpoint, _ = _start(settings, splits)
    return checkpoint


def _start(settings: _Settings, splits: Splits) -> tuple[Checkpoint, _Settings]:
    """Return the model to start from, and the settings with what they left open."""
    model, size = choose_model(settings, splits.train)
    checkpoint = build(model, labels=splits.label_names, image_size=size, seed=settings.seed)
    if checkpoint.kind != splits.train.kind:
        raise DataError(
            f"expected {checkpoint.kind}s for {model}, {settings.data} holds {splits.train.kind}s"
        )
    return checkpoint, with_choices(settings, checkpoint, model)


def _data_record(splits: Splits) -> dict[str, Any]:
    sizes = {name: len(getattr(splits, name)) for name in ("train", "validation", "test")}
    return {"inputs": sizes, "split_seed": 0}


def _load_splits(settings: FitSettings) -> Splits:
    splits = data.load(
        settings.data, limit=settings.limit, skip_unreadable=settings.skip_unreadable
    )
    return data.with_extra(splits, settings.extra, limit=settings.limit)


def _schedule(settings: FitSettings, train: LabelledData) -> Schedule:
    assert settings.learning_rate is not None  # noqa: S101 - `_start` chose one
    return Schedule(
        epochs=settings.epochs,
        batch_size=settings.batch_size or default_batch_size(len(train)),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        scheduler="cosine",
        patience=settings.patience,
        precision=settings.precision,
        device=settings.device,
        compile=settings.compile,
        seed=settings.seed,
        augment=choose(settings.augment, train, settings.seed),
    )


def _temperature(settings: DistillSettings) -> float:
    if settings.temperature is not None:
        return settings.temperature
    return 1.0 if settings.teacher_is_server else _TEMPERATURE


def _teacher_logits(settings: DistillSettings, rows: LabelledData) -> npt.NDArray[np.float32]:
    cache = cache_file(settings.out)
    if settings.teacher_is_server:
        with open_server(settings.teacher, settings.teacher_model, rows) as server:
            return teacher_logits(server, rows, cache)
    checkpoint = open_checkpoint_teacher(settings.teacher, rows, device=settings.device)
    return teacher_logits(checkpoint, rows, cache)


def _print_teacher(logits: npt.NDArray[np.float32], splits: Splits, labelled: int) -> None:
    labels = splits.train.labels[:labelled]
    agreed = float((logits[:labelled].argmax(axis=-1) == labels).mean())
    print(
        f"teacher: agrees with {agreed:.4f} of {labelled} labels, teaches "
        f"{len(splits.train) - labelled} inputs without a label",
        flush=True,
    )
