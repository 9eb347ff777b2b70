"""The command `python -m export verify`: a bundle against data and against its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime import contract
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Command):
    """Run a bundle on data: accuracy, deferral ratio, and differences to a checkpoint.

    A language model's bundle takes a task (`python -m train tasks` lists them), and is held to the
    checkpoint by tokens, confidences and decisions.

    Example: python -m export verify --bundle bundle --data digits --against runs/tuned
    Example: python -m export verify --bundle bundle --task clinc150 --against runs/tuned-lm
    """

    bundle: Path = field("bundle folder")
    data: str | None = field(
        "data set name, folder or file; of a language model's task, where it is not its own",
        default=None,
    )
    task: str | None = field("task of a language model", default=None)
    limit: int | None = field("at most so many prompts of the task", default=None)
    seed: int = field("seed of the task's splits", default=0)
    split: Literal["train", "validation", "test"] = field("split to use", default="test")
    against: Path | None = field("checkpoint to compare with", default=None)
    max_flips: float | None = field(
        "share of the decisions that may differ (0.005 if not given; 0.01 of a quantized bundle, "
        "0.05 of a quantized language model)",
        default=None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_flips is not None and not 0.0 <= self.max_flips <= 1.0:
            raise SettingError(f"expected --max-flips in [0, 1], got {self.max_flips}")
        if self.max_flips is not None and self.against is None:
            raise SettingError("expected --against CHECKPOINT with --max-flips")
        if self.data is None and self.task is None and self.against is None:
            raise SettingError(
                "expected --data DATA, or of a language model --task TASK or --against CHECKPOINT, "
                "got none"
            )
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"expected --limit of at least 1, got {self.limit}")

    def run(self) -> None:
        """Check the hashes, print the figures; fail when too many of the decisions differ."""
        from edge_runtime.bundle import role_of

        if role_of(self.bundle) != contract.ROLE_DECODER:
            self._verify_classifier()
            return
        if self.data is not None and self.task is None:
            raise SettingError(
                f"expected --task TASK for the language model in {self.bundle}, got --data alone"
            )
        from export.language.checking import verify_answers

        verify_answers(self)

    def _verify_classifier(self) -> None:
        from edge_runtime.edge_model import EdgeModel
        from export.classifier.verification import MAX_FLIPPED, MAX_FLIPPED_QUANTIZED
        from export.data import kind_of, load_split
        from export.errors import VerificationError
        from export.session import run_bundle

        model = EdgeModel.open(self.bundle)
        if self.data is None or self.task is not None:
            raise SettingError(
                f"expected --data DATA, and no --task, for the classifier in {self.bundle}"
            )
        kind = kind_of(model.metadata)
        split = load_split(self.data, self.split, labels=model.labels, owner=self.bundle, kind=kind)
        prediction, confidence, defer = run_bundle(model, split.inputs)
        print(f"inputs                     {len(split)}")
        print(f"accuracy of the edge model {(prediction == split.labels).mean():.4f}")
        print(f"deferral ratio             {defer.mean():.4f}")
        if self.against is None:
            return
        differing = self._differences(model, split, prediction, confidence, defer)
        usual = MAX_FLIPPED_QUANTIZED if _is_quantized(model) else MAX_FLIPPED
        allowed = usual if self.max_flips is None else self.max_flips
        if differing > allowed:
            raise VerificationError(
                f"expected at most {allowed:.1%} of the decisions to differ from "
                f"{self.against}, got {differing:.2%}: export it again"
            )

    def _differences(
        self, model: Any, split: Any, prediction: Any, confidence: Any, defer: Any
    ) -> float:
        import numpy as np

        from edge_runtime.contract import SecondLook
        from export.data import kind_of, require_labels
        from export.sources.reference import Gate, ask_pytorch
        from train.models import open_checkpoint

        assert self.against is not None  # noqa: S101 - the caller checked
        checkpoint = open_checkpoint(self.against, kind=kind_of(model.metadata))
        require_labels(checkpoint.labels, self.against, labels=model.labels, owner=self.bundle)
        described = model.metadata.second_look
        look = None if described is None else SecondLook.from_fields(described)
        gate = Gate(model.metadata.confidence_kind, model.threshold, look)
        expected = ask_pytorch(checkpoint, split.inputs, gate)
        theirs = expected.defer
        if _is_quantized(model):
            # Its threshold was chosen on its own confidences: compare at the same deferral ratio.
            theirs = least_sure(expected.confidence, int(defer.sum()))
        flips = defer != theirs
        shift = np.abs(confidence - expected.confidence)
        wrong = prediction != expected.prediction
        print(f"top-1 disagreement         {wrong.mean():.4f}")
        print(f"decision flips             {flips.mean():.4f}")
        print(f"confidence shift           mean {shift.mean():.2e}, largest {shift.max():.2e}")
        return float((flips | wrong).mean())


def least_sure(confidence: Any, count: int) -> Any:
    """Return bool [n]: which `count` of the inputs have the least confidence; a NaN comes first."""
    import numpy as np

    order = np.argsort(np.where(np.isnan(confidence), -np.inf, confidence), kind="stable")
    deferred = np.zeros(len(confidence), bool)
    deferred[order[:count]] = True
    return deferred


def _is_quantized(model: Any) -> bool:
    return contract.QUANTIZATION in model.metadata.extra
