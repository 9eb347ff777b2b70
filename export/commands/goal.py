"""Settings for a threshold: given by hand, or chosen on data for a goal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

DELTA = 0.05
_GOALS = ("target_deferral", "target_accuracy", "max_risk", "max_harm", "cloud_cost")


@dataclass(frozen=True, kw_only=True)
class GoalSettings(Command):
    """A threshold, or calibration data and one goal."""

    threshold: float | None = field("threshold to use as it is, instead of a goal", default=None)
    calibrate: str | None = field("data set to choose the threshold on", default=None)
    split: Literal["train", "validation", "test"] = field(
        "split of the calibration data; a guarantee needs inputs that M_S was not fitted on",
        default="validation",
    )
    target_deferral: float | None = field(
        "defer at most this share of the inputs", default=None, within=(0, 1)
    )
    target_accuracy: float | None = field(
        "least accuracy of M_S's own answers, without a guarantee", default=None, within=(0, 1)
    )
    max_risk: float | None = field(
        "largest share of errors among M_S's own answers, guaranteed with probability 1 - delta",
        default=None,
        above=0,
        below=1,
    )
    max_harm: float | None = field(
        "largest loss of the cascade's accuracy against M_L alone, guaranteed with probability "
        "1 - delta; needs --large",
        default=None,
        above=0,
        below=1,
    )
    delta: float | None = field(
        f"probability that a guarantee fails ({DELTA} if not given)",
        default=None,
        above=0,
        below=1,
    )
    cloud_cost: float | None = field(
        "choose the least cost: cost of one call to the cloud, in the unit of --error-cost",
        default=None,
        least=0,
    )
    error_cost: float | None = field("cost of one wrong answer", default=None, above=0)
    large: Path | None = field(
        "checkpoint folder of M_L, for --max-harm; with --cloud-cost it counts M_L's errors too",
        default=None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        goals = [_flag(name) for name in _GOALS if getattr(self, name) is not None]
        self._check_combination(goals)
        self._check_guarantee()
        if (self.cloud_cost is None) != (self.error_cost is None):
            raise SettingError("expected --cloud-cost and --error-cost together, got one of them")
        if self.large is not None and self.max_harm is None and self.cloud_cost is None:
            raise SettingError("expected --max-harm or --cloud-cost with --large, got neither")

    def _check_combination(self, goals: list[str]) -> None:
        got = goals if self.calibrate is None else ["--calibrate", *goals]
        if self.threshold is not None and got:
            raise SettingError(
                f"expected --threshold or a goal, got --threshold and {', '.join(got)}"
            )
        if self.threshold is None and (self.calibrate is None or len(goals) != 1):
            raise SettingError(
                "expected either --threshold T, or --calibrate DATA with one of "
                f"{', '.join(map(_flag, _GOALS))}, got {' '.join(got) or 'none'}"
            )

    def _check_guarantee(self) -> None:
        if self.delta is not None and not self.is_certified:
            raise SettingError("expected --max-risk or --max-harm with --delta, got neither")
        if self.is_certified and self.split == "train":
            raise SettingError(
                "expected --split validation or test with a guarantee, got train: M_S was fitted "
                "on these inputs, so they say nothing about fresh ones"
            )
        if self.max_harm is not None and self.large is None:
            raise SettingError(
                "expected --large with --max-harm, got none: harm is measured against M_L's answers"
            )

    @property
    def is_certified(self) -> bool:
        """True if the threshold comes with a guarantee."""
        return self.max_risk is not None or self.max_harm is not None

    def check_quantization(self, kind: str) -> None:
        """Raise `SettingError` for a quantized graph with a threshold given by hand."""
        if kind != "none" and self.calibrate is None:
            raise SettingError(
                "expected --calibrate with --quantize, got --threshold: quantization moves the "
                "confidences, so the threshold must be chosen on the quantized graph"
            )


@dataclass(frozen=True, kw_only=True)
class TaskGoalSettings(GoalSettings):
    """A threshold, or the task of a language model and one goal."""

    data: str | None = field(
        "folder, file or Hugging Face name of a language model's task (default: its own)",
        default=None,
    )
    limit: int | None = field(
        "use at most this many examples of a language model's task, to calibrate faster",
        default=None,
        least=1,
    )
    seed: int = field("seed of the splits of a language model's task", default=0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None and self.calibrate is None:
            raise SettingError("expected --calibrate TASK with --data, got --threshold")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
