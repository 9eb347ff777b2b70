"""The command `python -m export retune`, which changes the threshold of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import field
from export.commands.goal import TaskGoalSettings


@dataclass(frozen=True, kw_only=True)
class RetuneSettings(TaskGoalSettings, does="export.retune:retune"):
    """Give a bundle another threshold, set by hand or chosen on data, without another export.

    --calibrate takes a data set; for a language model's bundle a task, whose prompts the graph in
    the bundle answers.

    Example: python -m export retune --bundle bundle --calibrate digits --target-deferral 0.1
    """

    bundle: Path = field("bundle folder, rewritten in place", word=True)
