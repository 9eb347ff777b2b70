"""Calibrates a bundle for one goal after the other, and looks on fresh data what became of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantization import QuantizationSettings, as_settings
from edge_runtime.model import EdgeModel
from export.commands.retune import RetuneSettings
from export.errors import CalibrationError
from export.session import run_bundle
from train.data import LabelledData
from train.models import open_checkpoint


def outcomes(
    settings: QuantizationSettings, bundle: Path, test: LabelledData, scratch: Path
) -> dict[str, Any]:
    """Return, by goal, what a bundle does on the test split.

    Args:
        settings: The goals, and what to choose the thresholds on.
        bundle: Calibrated for the first goal.
        test: Inputs that no threshold was chosen on.
        scratch: Where a copy for the other goals may stand.

    Returns:
        `deferral_ratio`, `answered` (inputs), `wrong` (of these), and with M_L `harm` (its accuracy
        minus the joint accuracy); or `refused` with the reason.
    """
    large = None
    if settings.large is not None:
        predicted = open_checkpoint(settings.large, kind=test.kind).predict(test.inputs)
        large = predicted.argmax(axis=-1) == test.labels
    found = {settings.goals[0]: _outcome(bundle, test, large)}
    for goal in settings.goals[1:]:
        try:
            copy = shutil.copytree(bundle, scratch)
            RetuneSettings(
                bundle=copy,
                calibrate=settings.data,
                split=settings.split,
                **as_settings(goal, settings.large),
            ).run()
            found[goal] = _outcome(copy, test, large)
        except CalibrationError as error:
            found[goal] = {"refused": str(error)}
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return found


def _outcome(bundle: Path, test: LabelledData, large_right: Any | None) -> dict[str, Any]:
    model = EdgeModel.open(bundle)
    prediction, _, defer = run_bundle(model, test.inputs)
    right = prediction == test.labels
    found = {
        "threshold": model.threshold,
        "deferral_ratio": float(defer.mean()),
        "answered": int((~defer).sum()),
        "wrong": int((~defer & ~right).sum()),
    }
    if large_right is not None:
        joint = np.where(defer, large_right, right)
        found["harm"] = float(large_right.mean() - joint.mean())
    return found
