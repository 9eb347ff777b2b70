"""The settings that say what a language model's threshold is for: a goal, and a task's data."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.cli import field
from edge_runtime.errors import SettingError
from export.commands.goal import GoalSettings


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
