"""Two models of equal cost to a second look: the average of the controls of neighbouring seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from train.data import LabelledData, Splits
from train.devices import placed
from train.models import Checkpoint, open_checkpoint
from train.scores import SPLITS, Scores, save_scores
from train.sweeps.jobs import load_splits, scores_file, seed_folder
from train.sweeps.methods import AVERAGE, CONTROL
from train.sweeps.settings import SweepSettings

Floats = npt.NDArray[np.float64]
_GATE = "max_softmax"


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
    models = [placed(open_checkpoint(folder, kind=kind), device) for folder in folders]
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
