"""The jobs of a sweep: fit M_S of one seed, tune and score one training, score an average.

Each is done in one process, and skipped if its result exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from edge_runtime.files import write_atomically
from edge_runtime.reading import open_arrays
from train import data
from train.classifier.checkpoints import LargeAnswers
from train.classifier.settings import DistillSettings, FitSettings, TuneSettings
from train.classifier.stage1 import distill, fit
from train.classifier.stage2 import tune_checkpoint
from train.comparison.scores import SPLITS, Scores, doubt, save_scores, score
from train.data import LabelledData, Splits
from train.models import Checkpoint, open_checkpoint
from train.sweeps.methods import AVERAGE, CONTROL, FITTED, UNTUNED, Training
from train.sweeps.settings import SweepSettings
from train.training.schedule import move_to

LARGE_FILE = "large.npz"
_IN_MEMORY_BYTES = 2 << 30
_GATE = "max_softmax"
Floats = npt.NDArray[np.float64]


def fit_seed(settings: SweepSettings, seed: int) -> None:
    """Fit M_S of one seed, or distil it from the teacher."""
    out = seed_folder(settings, seed) / FITTED
    if _is_done(out):
        return
    flags: dict[str, Any] = {
        **_shared_flags(settings, seed, out),
        "model": settings.model,
        "epochs": settings.fit_epochs,
        "patience": settings.patience,
        "learning_rate": settings.learning_rate,
        "augment": settings.augment,
    }
    with _log_to_file(out):
        splits = load_splits(settings.data, settings.limit)
        if settings.teacher is None:
            fit(FitSettings(**flags), splits)
        else:
            distill(DistillSettings(teacher=str(settings.teacher), **flags), splits)


def _shared_flags(settings: SweepSettings, seed: int, out: Path) -> dict[str, Any]:
    """Return the flags that both stages share."""
    names = ("data", "batch_size", "device", "limit")
    return {n: getattr(settings, n) for n in names} | {"seed": seed, "out": out, "resume": True}


def train_chain(settings: SweepSettings, seed: int, chain: list[Training]) -> None:
    """Tune and score several trainings of a seed in order."""
    for training in chain:
        train_and_score(settings, seed, training)


def train_and_score(settings: SweepSettings, seed: int, training: Training) -> None:
    """Tune one training of a seed and score it on validation and test."""
    scored = scores_file(settings, seed, training.name)
    if scored.is_file():
        return
    folder = seed_folder(settings, seed)
    splits = load_splits(settings.data, settings.limit)
    large = load_large(settings.out / LARGE_FILE)
    out = folder / (FITTED if training.name == UNTUNED else training.name)
    if training.flags is not None and not _is_done(out):
        flags: dict[str, Any] = {
            **_shared_flags(settings, seed, out),
            "checkpoint": folder / training.start,
            "large": settings.large,
            "stage2_data": settings.stage2_data,
            "epochs": max(1, round(settings.epochs * training.share)),
            "learning_rate": settings.learning_rate / 2,
            **training.flags,
        }
        with _log_to_file(out):
            start = open_checkpoint(folder / training.start, kind=splits.train.kind)
            tune_checkpoint(TuneSettings(**flags), start, splits, large)
    checkpoint = move_to(open_checkpoint(out, kind=splits.train.kind), settings.device)
    has_head = training.name in {UNTUNED, CONTROL}
    save_scores(scored, score(checkpoint, splits, settings.deferral, large if has_head else None))


def seed_folder(settings: SweepSettings, seed: int) -> Path:
    """Return the folder of a seed's checkpoints and scores."""
    return settings.out / f"seed-{seed}"


def scores_file(settings: SweepSettings, seed: int, name: str) -> Path:
    """Return the file of one training's scores."""
    return seed_folder(settings, seed) / f"{name}.scores.npz"


@lru_cache(maxsize=1)
def load_splits(name: str, limit: int | None) -> Splits:
    """Load a data set once per process; its pictures are decoded if they fit into the memory."""
    splits = data.load(name, limit=limit)
    return Splits(*(_decode(part) for part in (splits.train, splits.validation, splits.test)))


def _decode(part: LabelledData) -> LabelledData:
    if part.kind == "text" or part.inputs[0].nbytes * len(part) > _IN_MEMORY_BYTES:
        return part
    pictures = [part.inputs[i] for i in range(len(part))]
    return LabelledData(pictures, part.labels, part.ids, part.label_names, part.kind)


def save_large(path: Path, answers: LargeAnswers) -> None:
    """Write which inputs M_L gets right."""
    ids = np.array(list(answers.right))
    right = np.fromiter(answers.right.values(), np.bool_, len(answers.right))
    write_atomically(path, lambda file: np.savez_compressed(file, ids=ids, right=right))


@lru_cache(maxsize=1)
def load_large(path: Path) -> LargeAnswers:
    """Read the file that `save_large` wrote."""
    with open_arrays(path) as file:
        return LargeAnswers(dict(zip(file["ids"].tolist(), file["right"].tolist(), strict=True)))


def _is_done(out: Path) -> bool:
    return (out / "training.json").is_file()


@contextlib.contextmanager
def _log_to_file(out: Path) -> Any:
    """Send a training's output to a file next to it: several trainings print at the same time."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.parent / f"{out.name}.log"
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def score_average(settings: SweepSettings, seed: int) -> None:
    """Score the average of two trained controls: as a second look does, it costs two passes.

    The controls are those of the seed and of the next one in `--seeds`; after the last comes the
    first. With two seeds both rows are therefore of the same pair, and equal.
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

    The prediction is the arg-max of the mean of the members' softmax, the confidence its maximum,
    at one forward pass per member. The members have the same classes in the same order.
    """
    parts = {split: getattr(splits, split) for split in SPLITS}
    logits = {split: _mean_logits(models, part) for split, part in parts.items()}
    return Scores(
        right={s: logits[s].argmax(axis=-1) == part.labels for s, part in parts.items()},
        uncertainty={s: {_GATE: doubt(logits[s]).astype(np.float32)} for s in SPLITS},
        passes={_GATE: float(len(models))},
    )


def _pair(seeds: tuple[int, ...], seed: int) -> tuple[int, int]:
    return seed, seeds[(seeds.index(seed) + 1) % len(seeds)]


def _mean_logits(models: Sequence[Checkpoint], part: LabelledData) -> Floats:
    """Return logits whose softmax is the mean of the members' softmax, float64 [n, C]."""
    members = [model.predict(part.inputs).astype(np.float64) for model in models]
    return np.asarray(logsumexp(log_softmax(members, axis=-1), axis=0))
