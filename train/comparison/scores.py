"""Scores of a classifier's checkpoint under every gate: the raw material of comparisons.

A gate turns logits into a confidence. All gates leave the prediction alone: it is the arg-max of
the first view. They differ in the order in which inputs are deferred, and in the forward passes
per input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from edge_runtime import contract, metrics
from edge_runtime.files import write_atomically
from edge_runtime.reading import open_arrays
from train.classifier.checkpoints import LargeAnswers
from train.comparison.post_hoc import HeadInputs, fit_head, predict_out_of_fold
from train.data import LabelledData, Splits
from train.errors import DataError, TrainError
from train.models import Checkpoint
from train.models.deferral_head import sigmoid

MIRROR_BAND = "mirror_band"
"""Gate that looks at the mirror image only if the first confidence is near the threshold."""
BAND = 0.1
SPLITS = ("validation", "test")
_HEAD_SEED = 0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One checkpoint on validation and test.

    Attributes:
        right: By split: 1 where the prediction is right, bool [n].
        uncertainty: By split, then by gate: float32 [n], 1 - confidence for probabilities.
        passes: By gate: forward passes per input.
        left_out: By gate: why it could not be scored.
    """

    right: Mapping[str, npt.NDArray[np.bool_]]
    uncertainty: Mapping[str, Mapping[str, npt.NDArray[np.float32]]]
    passes: Mapping[str, float]
    left_out: Mapping[str, str] = field(default_factory=dict)


def score(
    checkpoint: Checkpoint, splits: Splits, ratio: float, large: LargeAnswers | None = None
) -> Scores:
    """Score a checkpoint on validation and test; settings of gates are fitted on validation only.

    Args:
        checkpoint: M_S.
        splits: Labelled data.
        ratio: The deferral ratio at the centre of the second look's band.
        large: The inputs that M_L gets right; if known, the deferral head is a gate too.
    """
    logits = {s: _views(checkpoint, getattr(splits, s)) for s in SPLITS}
    temperature = fit_temperature(logits["validation"][0], splits.validation.labels)
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
        except TrainError as error:  # a table without the head is better than no table
            left_out[contract.DEFERRAL_HEAD] = str(error)
    return Scores(
        right={s: views[s].first.argmax(-1) == getattr(splits, s).labels for s in SPLITS},
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
    """Score the deferral head; on validation, on which it is fitted, out of fold."""
    validation = HeadInputs.of(checkpoint, splits.validation)
    target = large.flags(splits.validation) & ~validation.right
    head = fit_head(validation, target, _HEAD_SEED)
    test = HeadInputs.of(checkpoint, splits.test)
    doubts["validation"][contract.DEFERRAL_HEAD] = predict_out_of_fold(
        validation, target, _HEAD_SEED
    )
    doubts["test"][contract.DEFERRAL_HEAD] = sigmoid(head.logit(test.inputs))
    passes[contract.DEFERRAL_HEAD] = 1.0


def save_scores(path: Path, scores: Scores) -> None:
    """Write scores to a file."""
    arrays: dict[str, Any] = {
        "gates": np.array(list(scores.passes)),
        "passes": np.array(list(scores.passes.values())),
        "left_out": np.array(list(scores.left_out.items()), np.str_).reshape(-1, 2),
    }
    for split in SPLITS:
        arrays[f"right/{split}"] = scores.right[split]
        gates = [scores.uncertainty[split][name] for name in scores.passes]
        arrays[f"uncertainty/{split}"] = np.stack(gates)
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def load_scores(path: Path) -> Scores:
    """Read a file that `save_scores` wrote.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with open_arrays(path) as file:
            gates = [str(name) for name in file["gates"]]
            doubts = {s: dict(zip(gates, file[f"uncertainty/{s}"], strict=True)) for s in SPLITS}
            return Scores(
                right={s: file[f"right/{s}"] for s in SPLITS},
                uncertainty=doubts,
                passes=dict(zip(gates, file["passes"].tolist(), strict=True)),
                # Scores of older sweeps lack this key.
                left_out=dict(file["left_out"].tolist()) if "left_out" in file else {},
            )
    except Exception as error:  # noqa: BLE001 - a damaged archive raises nearly anything
        raise DataError(f"expected scores of a sweep in {path}: {error}: rerun the sweep") from None


@dataclass(frozen=True)
class Views:
    """Logits of every input, and of its second view.

    Attributes:
        first: float [n, C], of the original input.
        second: float [n, C], of its mirror image; None for texts.
        temperature: Divisor that calibrates the logits, fitted on validation.
    """

    first: Floats
    second: Floats | None
    temperature: float


@dataclass(frozen=True)
class Gate:
    """A confidence, by its uncertainty.

    Attributes:
        uncertainty: Views -> float64 [n]; a greater value is less sure. Near certainty it keeps the
            digits that a confidence close to 1 would lose.
        passes: Forward passes of M_S per input.
        source: The publication that describes it.
        needs_second: Whether it needs the second view.
    """

    uncertainty: Callable[[Views], Floats]
    passes: float
    source: str
    needs_second: bool = False


def doubt(logits: Floats, classes: npt.NDArray[np.int64] | None = None) -> Floats:
    """Return 1 - p without cancellation, as the mass of all other classes.

    Args:
        logits: float [n, C].
        classes: int64 [n], the class in each row; by default the most probable one.
    """
    classes = logits.argmax(axis=-1) if classes is None else classes
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    total = shifted.sum(axis=-1)
    shifted[np.arange(len(classes)), classes] = 0.0
    return np.asarray(shifted.sum(axis=-1) / total)


def _margin(views: Views) -> Floats:
    top = np.partition(softmax(views.first, axis=-1), -2, axis=-1)
    return np.asarray(top[:, -2] - top[:, -1])


def _mirror(views: Views) -> Floats:
    assert views.second is not None  # noqa: S101 - narrows the type: only called with it
    second = doubt(views.second, views.first.argmax(axis=-1))
    return np.asarray((doubt(views.first) + second) / 2)


GATES: Mapping[str, Gate] = {
    "max_softmax": Gate(lambda v: doubt(v.first), 1, "Rabanser et al. 2025, eq. 6"),
    "entropy": Gate(lambda v: -metrics.neg_entropy(v.first), 1, "Rabanser et al. 2025, eq. 8"),
    "margin": Gate(_margin, 1, "Scheffer et al. 2001: first minus second probability"),
    "max_logit": Gate(lambda v: -v.first.max(axis=-1), 1, "Hendrycks et al. 2022"),
    "temperature": Gate(lambda v: doubt(v.first / v.temperature), 1, "Guo et al. 2017"),
    "mirror": Gate(_mirror, 2, "second look at every input; Ayhan and Berens 2018", True),
}


def fit_temperature(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Return the temperature with the least cross-entropy (Guo et al. 2017, section 4.2).

    Args:
        logits: float [n, C] of data outside the training split.
        labels: int64 [n].
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        top = z.max(axis=-1)
        return float(np.mean(np.log(np.exp(z - top[:, None]).sum(axis=-1)) + top - z[rows, labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))
