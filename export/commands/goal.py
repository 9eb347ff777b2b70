"""The settings that say what a threshold is for, shared by the commands that choose one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

# MERGEDOC export/commands/task_goal.py: "The settings that say what a language model's threshold is for: a goal, and a task's data."

if TYPE_CHECKING:  # scipy takes its time to load
    from export.calibration import Goal

_DELTA = 0.05
_SHARES = ("target_deferral", "target_accuracy", "max_risk", "max_harm")
_GOALS = (*_SHARES, "cloud_cost")


@dataclass(frozen=True, kw_only=True)
class GoalSettings(Command):
    """A threshold by hand, or data and one goal.

    Raises:
        SettingError: Both, neither, several goals, or a number out of range.
    """

    threshold: float | None = field("the threshold, where it is known", default=None)
    calibrate: str | None = field("data set to choose the threshold on", default=None)
    split: Literal["train", "validation", "test"] = field(
        "split of the calibration data", default="validation"
    )
    target_deferral: float | None = field("defer at most this share of the inputs", default=None)
    target_accuracy: float | None = field(
        "least accuracy among what M_S answers, without a guarantee", default=None
    )
    max_risk: float | None = field(
        "most errors among what M_S answers, guaranteed with probability 1 - delta", default=None
    )
    max_harm: float | None = field(
        "most accuracy that the cascade may lose to M_L alone, guaranteed alike; needs --large",
        default=None,
    )
    delta: float | None = field(
        f"how often a guarantee may fail ({_DELTA} if not given)", default=None
    )
    cloud_cost: float | None = field(
        "least cost: of one call to the cloud; with --error-cost", default=None
    )
    error_cost: float | None = field("least cost: of one wrong answer", default=None)
    large: Path | None = field(
        "checkpoint folder of M_L, for --max-harm, and for --cloud-cost where it is not always "
        "right",
        default=None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [name for name in _GOALS if getattr(self, name) is not None]
        self._check_combination(named)
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise SettingError(f"expected {_flag(name)} in [0, 1], got {value}")
        self._check_guarantee(named)
        self._check_costs()

    def _check_combination(self, named: list[str]) -> None:
        if self.threshold is not None and math.isnan(self.threshold):
            raise SettingError("expected a number as --threshold, got NaN")
        if self.threshold is not None and (named or self.calibrate is not None):
            given = ["--calibrate"] if self.calibrate is not None else []
            given += [_flag(name) for name in named]
            raise SettingError(
                f"expected --threshold or a goal, got --threshold and {', '.join(given)}"
            )
        if self.threshold is None and (self.calibrate is None or len(named) != 1):
            got = [] if self.calibrate is None else ["--calibrate"]
            got += [_flag(name) for name in named]
            raise SettingError(
                "expected either --threshold T, or --calibrate DATA with one of "
                f"{', '.join(_flag(name) for name in _GOALS)}, got {' '.join(got) or 'none'}"
            )

    def _check_guarantee(self, named: list[str]) -> None:
        certified = [name for name in named if name in {"max_risk", "max_harm"}]
        if self.delta is not None and not certified:
            raise SettingError("expected --max-risk or --max-harm with --delta")
        for name in certified:
            if not 0.0 < getattr(self, name) < 1.0:
                raise SettingError(f"expected {_flag(name)} in (0, 1), got {getattr(self, name)}")
        if self.delta is not None and not 0.0 < self.delta < 1.0:
            raise SettingError(f"expected --delta in (0, 1), got {self.delta}")
        if certified and self.split == "train":
            raise SettingError(
                f"expected --split validation or test with {_flag(certified[0])}, got train: M_S "
                "knows these inputs, so they say nothing of fresh ones"
            )
        if self.max_harm is not None and self.large is None:
            raise SettingError("expected --large with --max-harm: it compares with M_L's answers")

    def _check_costs(self) -> None:
        if (self.cloud_cost is None) != (self.error_cost is None):
            raise SettingError("expected --cloud-cost and --error-cost together")
        for name in ("cloud_cost", "error_cost"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise SettingError(f"expected {_flag(name)} of at least 0, got {value}")
        if self.error_cost == 0:
            raise SettingError("expected --error-cost above 0: else nothing is worth a call")
        if self.large is not None and self.max_harm is None and self.cloud_cost is None:
            raise SettingError("expected --max-harm or --cloud-cost with --large")

    @property
    def is_certified(self) -> bool:
        """Whether the threshold comes with a guarantee."""
        return self.max_risk is not None or self.max_harm is not None

    def goal(self) -> Goal:
        """Return the goal; there is one wherever there is no threshold."""
        from export import calibration

        delta = _DELTA if self.delta is None else self.delta
        if self.max_risk is not None:
            return calibration.MaxRisk(self.max_risk, delta)
        if self.max_harm is not None:
            return calibration.MaxHarm(self.max_harm, delta)
        if self.target_accuracy is not None:
            return calibration.TargetAccuracy(self.target_accuracy)
        if self.cloud_cost is not None and self.error_cost is not None:
            return calibration.LeastCost(self.cloud_cost, self.error_cost)
        assert self.target_deferral is not None  # noqa: S101 - checked on creation
        return calibration.TargetDeferral(self.target_deferral)

    def large_right(self, data: Any) -> Any:
        """Return what M_L gets right of labelled data, bool [n], or None where it is not named.

        Raises:
            LabelError: M_L has other labels.
        """
        if self.large is None:
            return None
        from export.data import require_labels
        from train.models import open_checkpoint

        model = open_checkpoint(self.large, kind=data.kind)
        require_labels(model.labels, self.large, labels=data.label_names, owner=self.calibrate)
        return model.predict(data.inputs).argmax(axis=-1) == data.labels


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class TaskGoalSettings(GoalSettings):
    """A threshold by hand, or a task and one goal.

    Raises:
        SettingError: See `GoalSettings`; or the task's settings have no sense.
    """

    data: str | None = field(
        "folder, file or Hugging Face name of a language model's task (default: its own)",
        default=None,
    )
    limit: int | None = field(
        "calibrate a language model on at most so many examples", default=None
    )
    seed: int = field("seed of the splits of a language model's task", default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"expected --limit of at least 1, got {self.limit}")
        if self.data is not None and self.calibrate is None:
            raise SettingError("expected --calibrate TASK with --data, got --threshold")
