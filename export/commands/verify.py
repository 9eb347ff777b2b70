"""The command `python -m export verify`, which compares a bundle with data and its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime import contract
from edge_runtime.bundle import role_of
from edge_runtime.cli import Command, field, resolve
from edge_runtime.errors import SettingError

_WORKERS = {
    contract.ROLE_CLASSIFIER: "export.classifier.verification:verify_bundle",
    contract.ROLE_DECODER: "export.language.verification:verify_bundle",
}


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Command, does="export.commands.verify:verify"):
    """Run a bundle on data: accuracy, deferral ratio, and differences from a checkpoint.

    The bundle of a language model takes a task (`python -m train tasks` lists them). Its tokens,
    confidences and decisions are compared with those of the checkpoint.

    Example: python -m export verify --bundle bundle --data digits --against runs/tuned
    Example: python -m export verify --bundle bundle --task clinc150 --against runs/tuned-lm
    """

    bundle: Path = field("bundle folder", word=True)
    data: str | None = field(
        "data set name, folder or file; with --task, the data of that task (default: its own)",
        default=None,
    )
    task: str | None = field("task of a language model", default=None)
    limit: int | None = field("use at most this many prompts of the task", default=None, least=1)
    seed: int = field("seed of the task's splits", default=0, least=0)
    split: Literal["train", "validation", "test"] = field("split to use", default="test")
    against: Path | None = field("checkpoint to compare with", default=None)
    max_flips: float | None = field(
        "largest share of decisions that may differ (0.005 if not given; 0.01 for a quantized "
        "bundle, 0.05 for a quantized language model)",
        default=None,
        within=(0, 1),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_flips is not None and self.against is None:
            raise SettingError("expected --against CHECKPOINT with --max-flips, got none")
        if self.data is None and self.task is None and self.against is None:
            raise SettingError(
                "expected --data DATA, or for a language model --task TASK or --against "
                "CHECKPOINT, got none"
            )


def verify(settings: VerifySettings) -> None:
    """Verify a bundle by the function for its role."""
    resolve(_WORKERS[role_of(settings.bundle)])(settings)
