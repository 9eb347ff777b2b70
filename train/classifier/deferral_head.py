"""The command `python -m train deferral-head`: a small estimator of when M_L would help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime.cli import Command, field

_RATIO = 0.3


@dataclass(frozen=True, kw_only=True)
class DeferralHeadSettings(Command):
    """Fit a head to a checkpoint that estimates where M_L is right and M_S wrong.

    It is a logistic regression on M_S's penultimate features and max softmax, fitted on validation
    and stored beside the weights, which stay as they are. `python -m export --confidence
    deferral_head` puts it into the graph.

    Example: python -m train deferral-head --checkpoint runs/small --large runs/large --data digits
    """

    checkpoint: Path = field("checkpoint folder of M_S; the head is written into it")
    large: Path = field("checkpoint folder of M_L")
    data: str = field("data set name, folder or file", default="digits")
    device: Literal["auto", "cpu", "cuda"] = field("auto takes CUDA where it is", default="auto")
    seed: int = field("seed of the folds of the cross-validation", default=0)
    limit: int | None = field("use at most so many inputs a split", default=None)
    overwrite: bool = field("replace an older head", default=False)

    def run(self) -> None:
        """Fit, write, and say what the head is worth on inputs that it was not fitted on."""
        from train import data
        from train.classifier.checkpoints import right_of
        from train.comparison.post_hoc import HeadInputs, fit_head, predict_out_of_fold
        from train.models import HEAD_FILE, write_head
        from train.training.output import explain_full_disk

        self._require_free(self.checkpoint / HEAD_FILE)
        splits = data.load(self.data, limit=self.limit)
        validation = splits.validation
        small, large = (self._open(path, splits.train) for path in (self.checkpoint, self.large))
        seen, quality = HeadInputs.of(small, validation), right_of(large, validation)
        target = quality & ~seen.right
        fitted = fit_head(seen, target, self.seed)
        head = self._head(fitted, target)
        with explain_full_disk(self.checkpoint, " and run again"):
            write_head(head, self.checkpoint)
        defer = predict_out_of_fold(seen, target, self.seed)
        print(f"{self.checkpoint / HEAD_FILE}: {_summary(seen, quality, defer, fitted)}")

    def _require_free(self, path: Path) -> None:
        from train.errors import OutputError

        if path.exists() and not self.overwrite:
            raise OutputError(f"expected no head at {path} yet: --overwrite replaces it")

    def _open(self, path: Path, split: Any) -> Any:
        from train.classifier.checkpoints import open_for
        from train.training.schedule import move_to

        return move_to(open_for(path, split, self.data), self.device)

    def _head(self, fitted: Any, target: Any) -> Any:
        import numpy as np

        from train.models import DeferralHead, weights_sha256

        record = {
            "data": self.data,
            "split": "validation",
            "n": int(target.size),
            "gained": int(target.sum()),
            "l2": fitted.l2,
            "large": str(self.large),
            "large_sha256": weights_sha256(self.large),
            "seed": self.seed,
        }
        return DeferralHead(fitted.weight.astype(np.float32), fitted.bias, record)


def _summary(seen: Any, quality: Any, defer: Any, fitted: Any) -> str:
    """Say beside max softmax what an out-of-fold head gives the user on validation."""
    from edge_runtime import metrics

    right, target = seen.right.astype(float), quality & ~seen.right
    pairs = []
    for confidence in (seen.inputs[:, -1], 1.0 - defer):
        joint = metrics.joint_accuracy_at(confidence, right, quality.astype(float), _RATIO)
        pairs.append((joint, metrics.auroc(confidence, ~target)))
    (plain, plain_auroc), (joint, auroc) = pairs
    return (
        f"M_L is right and M_S wrong on {int(target.sum())} of {target.size}, L2 {fitted.l2:g}; "
        f"out of fold, joint accuracy at {_RATIO:.0%} {joint:.4f} (max softmax {plain:.4f}), AUROC "
        f"{auroc:.4f} ({plain_auroc:.4f})"
    )
