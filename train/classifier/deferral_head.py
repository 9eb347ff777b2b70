"""Fits a deferral head: a small estimator of where M_L would help."""

from __future__ import annotations

import numpy as np

from edge_runtime import metrics
from train import data
from train.classifier.checkpoints import open_for, right_of
from train.classifier.settings import DeferralHeadSettings
from train.comparison.post_hoc import (
    Flags,
    Floats,
    HeadInputs,
    fit_head,
    predict_out_of_fold,
)
from train.errors import OutputError
from train.models import HEAD_FILE, DeferralHead, weights_sha256, write_head
from train.training.output import explain_full_disk

_RATIO = 0.3


def fit_deferral_head(settings: DeferralHeadSettings) -> None:
    """Fit and write the head, and print its worth on inputs that it was not fitted on."""
    file = settings.checkpoint / HEAD_FILE
    if file.exists() and not settings.overwrite:
        raise OutputError(f"expected no head at {file} yet: --overwrite replaces it")
    splits = data.load(
        settings.data, limit=settings.limit, skip_unreadable=settings.skip_unreadable
    )
    validation = splits.validation
    small, large = (
        open_for(path, splits.train, settings.data, device=settings.device)
        for path in (settings.checkpoint, settings.large)
    )
    inputs, large_right = HeadInputs.of(small, validation), right_of(large, validation)
    target = large_right & ~inputs.right
    fitted = fit_head(inputs, target, settings.seed)
    record = {
        "data": settings.data,
        "split": "validation",
        "n": int(target.size),
        "gained": int(target.sum()),
        "l2": fitted.l2,
        "large": str(settings.large),
        "large_sha256": weights_sha256(settings.large),
        "seed": settings.seed,
    }
    head = DeferralHead(fitted.weight.astype(np.float32), fitted.bias, record)
    with explain_full_disk(settings.checkpoint, " and rerun"):
        write_head(head, settings.checkpoint)
    defer = predict_out_of_fold(inputs, target, settings.seed)
    print(f"{file}: {_summary(inputs, large_right, defer)}, L2 {fitted.l2:g}")


def _summary(inputs: HeadInputs, large_right: Flags, defer: Floats) -> str:
    """Return what an out-of-fold head brings on validation, next to max softmax."""
    right, target = inputs.right.astype(float), large_right & ~inputs.right
    pairs = []
    for confidence in (inputs.inputs[:, -1], 1.0 - defer):
        joint = metrics.joint_accuracy_at(confidence, right, large_right.astype(float), _RATIO)
        pairs.append((joint, metrics.auroc(confidence, ~target)))
    (plain, plain_auroc), (joint, auroc) = pairs
    return (
        f"M_L is right and M_S wrong on {int(target.sum())} of {target.size}; out of fold, joint "
        f"accuracy at {_RATIO:.0%} {joint:.4f} (max softmax {plain:.4f}), AUROC {auroc:.4f} "
        f"({plain_auroc:.4f})"
    )
