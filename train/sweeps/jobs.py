"""The pieces of a sweep that one process does: fit a seed, tune and score one training of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edge_runtime.files import write_atomically
from train import data
from train.classifier.checkpoints import LargeAnswers
from train.classifier.distill import DistillSettings
from train.classifier.fit import FitSettings
from train.classifier.stage2 import tune
from train.classifier.tune import TuneSettings
from train.comparison.scores import SPLITS, Scores, save_scores, score
from train.data import LabelledData, Splits
from train.models import Checkpoint, open_checkpoint
from train.sweeps.methods import AVERAGE, CONTROL, FITTED, UNTUNED, Training
from train.sweeps.settings import SweepSettings
from train.training.schedule import move_to

# MERGEDOC train/sweeps/average.py: 'Two models of equal cost to a second look: the average of the controls of neighbouring seeds.'

_IN_MEMORY_BYTES = 2 << 30
LARGE_FILE = "large.npz"

Floats = npt.NDArray[np.float64]
_GATE = "max_softmax"


def set_up_worker(threads: int) -> None:
    """Share the cores between the processes, and leave the terminal to the first one."""
    torch.set_num_threads(threads)


def fit_seed(settings: SweepSettings, seed: int) -> None:
    """Fit M_S of one seed, or distil it from the teacher, unless it is there."""
    out = seed_folder(settings, seed) / FITTED
    if _is_done(out):
        return
    given: dict[str, Any] = {
        "model": settings.model,
        "data": settings.data,
        "out": out,
        "epochs": settings.fit_epochs,
        "patience": settings.patience,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "augment": settings.augment,
        "device": settings.device,
        "seed": seed,
        "limit": settings.limit,
        "resume": True,
    }
    taught = settings.teacher is not None
    fit = (
        DistillSettings(teacher=str(settings.teacher), **given) if taught else FitSettings(**given)
    )
    with _quietly(out):
        fit.fit(load_splits(settings.data, settings.limit))


def train_chain(settings: SweepSettings, seed: int, chain: list[Training]) -> None:
    """Tune and score trainings of a seed, one after the other."""
    for training in chain:
        train_and_score(settings, seed, training)


def train_and_score(settings: SweepSettings, seed: int, training: Training) -> None:
    """Tune one training of a seed and score it on validation and test, unless that is done."""
    scored = scores_file(settings, seed, training.name)
    if scored.is_file():
        return
    folder = seed_folder(settings, seed)
    splits = load_splits(settings.data, settings.limit)
    out = folder / (FITTED if training.name == UNTUNED else training.name)
    if training.flags is not None and not _is_done(out):
        with _quietly(out):
            _tune(settings, seed, training, training.flags, out, splits)
    checkpoint = move_to(open_checkpoint(out, kind=splits.train.kind), settings.device)
    large = load_large(settings.out / LARGE_FILE) if training.name in {UNTUNED, CONTROL} else None
    save_scores(scored, score(checkpoint, splits, settings.deferral, large))


def _tune(
    settings: SweepSettings,
    seed: int,
    training: Training,
    flags: dict[str, Any],
    out: Path,
    splits: Splits,
) -> None:
    start = open_checkpoint(out.parent / training.start, kind=splits.train.kind)
    tuning = TuneSettings(
        **{
            "checkpoint": out.parent / training.start,
            "data": settings.data,
            "out": out,
            "large": settings.large,
            "stage2_data": settings.stage2_data,
            "epochs": max(1, round(settings.epochs * training.share)),
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate / 2,
            "device": settings.device,
            "seed": seed,
            "limit": settings.limit,
            "resume": True,
            **flags,
        }
    )
    tune(tuning, start, splits, load_large(settings.out / LARGE_FILE))


def seed_folder(settings: SweepSettings, seed: int) -> Path:
    """Return where the checkpoints and scores of a seed are."""
    return settings.out / f"seed-{seed}"


def scores_file(settings: SweepSettings, seed: int, name: str) -> Path:
    """Return where the scores of one training are."""
    return seed_folder(settings, seed) / f"{name}.scores.npz"


@lru_cache(maxsize=1)
def load_splits(name: str, limit: int | None) -> Splits:
    """Load a data set once a process, its pictures decoded where they fit into the memory."""
    splits = data.load(name, limit=limit)
    return Splits(*(_decoded(part) for part in (splits.train, splits.validation, splits.test)))


def _decoded(part: LabelledData) -> LabelledData:
    if part.kind == "text" or part.inputs[0].nbytes * len(part) > _IN_MEMORY_BYTES:
        return part
    pictures = [part.inputs[i] for i in range(len(part))]
    return LabelledData(pictures, part.labels, part.ids, part.label_names, part.kind)


def save_large(path: Path, answers: LargeAnswers) -> None:
    """Write what M_L gets right, in one step."""
    ids = np.array(list(answers.right))
    right = np.fromiter(answers.right.values(), np.bool_, len(answers.right))
    write_atomically(path, lambda file: np.savez_compressed(file, ids=ids, right=right))


@lru_cache(maxsize=1)
def load_large(path: Path) -> LargeAnswers:
    """Read what `save_large` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return LargeAnswers(dict(zip(file["ids"].tolist(), file["right"].tolist(), strict=True)))


def _is_done(out: Path) -> bool:
    return (out / "training.json").is_file()


@contextlib.contextmanager
def _quietly(out: Path) -> Any:
    """Send what a training says to a file beside it: several talk at once, the driver sums up."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.parent / f"{out.name}.log"
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def threads_each(jobs: int) -> int:
    """Return how many threads one of several processes takes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // jobs)


def score_average(settings: SweepSettings, seed: int) -> None:
    """Score the average of two trained controls, unless that is done; it trains nothing.

    They are those of the seed and of the one after it in `--seeds`, which is the first after the
    last. With two seeds both rows are therefore of the same pair, and alike.
    """
    scored = scores_file(settings, seed, AVERAGE)
    if scored.is_file():
        return
    splits = load_splits(settings.data, settings.limit)
    folders = [seed_folder(settings, s) / CONTROL for s in _pair(settings.seeds, seed)]
    kind, device = splits.train.kind, settings.device
    models = [move_to(open_checkpoint(folder, kind=kind), device) for folder in folders]
    save_scores(scored, average_scores(models, splits))


def average_scores(models: Sequence[Checkpoint], splits: Splits) -> Scores:
    """Score an ensemble on validation and test (Lakshminarayanan et al. 2017, section 2.4).

    Args:
        models: The K members, with the same classes in the same order.
        splits: Labelled data.

    Returns:
        The prediction is the arg-max of the mean of the members' softmax, the confidence its
        maximum, at K forward passes an input.
    """
    means = {split: _mean_softmax(models, getattr(splits, split)) for split in SPLITS}
    predicted = {split: p.argmax(axis=-1).astype(np.int16) for split, p in means.items()}
    return Scores(
        right={s: predicted[s] == getattr(splits, s).labels for s in SPLITS},
        predicted=predicted,
        uncertainty={s: {_GATE: _doubt(means[s], predicted[s])} for s in SPLITS},
        passes={_GATE: float(len(models))},
    )


def _pair(seeds: tuple[int, ...], seed: int) -> tuple[int, int]:
    return seed, seeds[(seeds.index(seed) + 1) % len(seeds)]


def _mean_softmax(models: Sequence[Checkpoint], data: LabelledData) -> Floats:
    members = [_softmax(model.predict(data.inputs).astype(np.float64)) for model in models]
    return np.asarray(np.mean(members, axis=0))


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _doubt(p: Floats, predicted: Any) -> npt.NDArray[np.float32]:
    """Return 1 - max p without cancellation: the mass of all classes but the predicted one."""
    others = p.copy()
    others[np.arange(len(p)), predicted] = 0.0
    return others.sum(axis=-1).astype(np.float32)
