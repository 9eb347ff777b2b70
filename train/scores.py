"""What a checkpoint makes of a data set under every gate: the raw material of all comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import contract, metrics
from train.data import LabelledData, Splits
from train.errors import DataError, TrainError
from train.gates import GATES, Views, fitted_temperature
from train.large import LargeAnswers
from train.models import Checkpoint
from train.models.deferral_head import sigmoid
from train.post_hoc import Seen, fit_head, out_of_fold

MIRROR_BAND = "mirror_band"
"""The mirror image is asked only where the first confidence lies near the threshold."""
BAND = 0.1
SPLITS = ("validation", "test")
_HEAD_SEED = 0


@dataclass(frozen=True)
class Scores:
    """One checkpoint on validation and test.

    Attributes:
        right: By split: 1 where the prediction is right, bool [n].
        predicted: By split: the predicted class, int16 [n].
        uncertainty: By split, then by gate: float32 [n], 1 - confidence for probabilities.
        passes: By gate: forward passes an input.
        left_out: By gate: why it could not be scored.
    """

    right: Mapping[str, npt.NDArray[np.bool_]]
    predicted: Mapping[str, npt.NDArray[np.int16]]
    uncertainty: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]
    passes: Mapping[str, float]
    left_out: Mapping[str, str] = field(default_factory=dict)


def score(
    checkpoint: Checkpoint, splits: Splits, ratio: float, large: LargeAnswers | None = None
) -> Scores:
    """Score a checkpoint on validation and test; settings of gates come from validation alone.

    Args:
        checkpoint: M_S.
        splits: Labelled data.
        ratio: The deferral ratio that the band of the second look lies around.
        large: What M_L gets right on both; with it the deferral head is a gate too.
    """
    logits = {s: _views(checkpoint, getattr(splits, s)) for s in SPLITS}
    temperature = fitted_temperature(logits["validation"][0], splits.validation.labels)
    views = {s: Views(*logits[s], temperature) for s in SPLITS}
    gates = {n: g for n, g in GATES.items() if not (g.needs_second and checkpoint.kind == "text")}
    doubts = {s: {n: g.uncertainty(views[s]) for n, g in gates.items()} for s in SPLITS}
    passes = {name: float(gate.passes) for name, gate in gates.items()}
    if "mirror" in gates:
        _add_band(doubts, passes, ratio)
    left_out = {}
    if large is not None:
        try:
            _add_head(doubts, passes, checkpoint, splits, large)
        except TrainError as error:  # a table without it is better than none
            left_out[contract.DEFERRAL_HEAD] = str(error)
    predicted = {s: views[s].first.argmax(axis=-1).astype(np.int16) for s in SPLITS}
    return Scores(
        right={s: predicted[s] == getattr(splits, s).labels for s in SPLITS},
        predicted=predicted,
        uncertainty={
            s: {n: values.astype(np.float32) for n, values in d.items()} for s, d in doubts.items()
        },
        passes=passes,
        left_out=left_out,
    )


def _views(checkpoint: Checkpoint, data: LabelledData) -> tuple[Any, Any]:
    first = checkpoint.predict(data.inputs).astype(np.float64)
    if checkpoint.kind == "text":
        return first, None
    return first, checkpoint.predict(data.inputs, view=contract.MIRROR).astype(np.float64)


def _add_band(doubts: dict[str, dict[str, Any]], passes: dict[str, float], ratio: float) -> None:
    low, high = metrics.band_limits(1.0 - doubts["validation"]["max_softmax"], ratio, BAND)
    for split in SPLITS:
        plain, twice = doubts[split]["max_softmax"], doubts[split]["mirror"]
        inside = metrics.in_band(1.0 - plain, low, high)
        doubts[split][MIRROR_BAND] = np.where(inside, twice, plain)
        passes[MIRROR_BAND] = 1.0 + float(inside.mean())


def _add_head(
    doubts: dict[str, dict[str, Any]],
    passes: dict[str, float],
    checkpoint: Checkpoint,
    splits: Splits,
    large: LargeAnswers,
) -> None:
    """Score the deferral head: on validation, which it is fitted on, out of fold."""
    validation = Seen.of(checkpoint, splits.validation)
    target = large.flags(splits.validation) & ~validation.right
    head = fit_head(validation, target, _HEAD_SEED)
    test = Seen.of(checkpoint, splits.test)
    doubts["validation"][contract.DEFERRAL_HEAD] = out_of_fold(validation, target, _HEAD_SEED)
    doubts["test"][contract.DEFERRAL_HEAD] = sigmoid(head.logit(test.inputs))
    passes[contract.DEFERRAL_HEAD] = 1.0


def save_scores(path: Path, scores: Scores) -> None:
    """Write scores in one step, so that a kill leaves none or whole ones."""
    arrays: dict[str, Any] = {
        "gates": np.array(list(scores.passes)),
        "passes": np.array(list(scores.passes.values())),
        "left_out": np.array(list(scores.left_out.items()), np.str_).reshape(-1, 2),
    }
    for split in SPLITS:
        arrays[f"right/{split}"] = scores.right[split]
        arrays[f"predicted/{split}"] = scores.predicted[split]
        gates = [scores.uncertainty[split][name] for name in scores.passes]
        arrays[f"uncertainty/{split}"] = np.stack(gates)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def load_scores(path: Path) -> Scores:
    """Read what `save_scores` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            gates = [str(name) for name in file["gates"]]
            doubts = {s: dict(zip(gates, file[f"uncertainty/{s}"], strict=True)) for s in SPLITS}
            return Scores(
                right={s: file[f"right/{s}"] for s in SPLITS},
                predicted={s: file[f"predicted/{s}"] for s in SPLITS},
                uncertainty=doubts,
                passes=dict(zip(gates, file["passes"].tolist(), strict=True)),
                # Scores of older sweeps do not say.
                left_out=dict(file["left_out"].tolist()) if "left_out" in file else {},
            )
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise DataError(f"expected scores of a sweep in {path}: {error}: run it again") from None
