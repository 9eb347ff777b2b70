"""The command `python -m benchmarks tasks`: are the tasks read and scored as published?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import field


@dataclass(frozen=True, kw_only=True)
class TasksSettings:
    """Read every task whole, and score its own right answers, in order and shuffled.

    The data are those under the environment variable GATEKEEPER_DATA.

    Example: python -m benchmarks tasks --out tasks.json
    """

    seed: int = field("seed of carved splits and of the shuffle", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def run(self) -> None:
        """Print a line a figure: measured, limit, met or missed."""
        from benchmarks.tasks_figures import measure

        measure(self)
