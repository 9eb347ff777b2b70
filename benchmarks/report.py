"""The command `python -m benchmarks report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import field
from edge_runtime.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Draw the pictures of a sweep into its folder; of a file of figures, print the table.

    Example: python -m benchmarks report runs/sweep
    """

    folders: tuple[Path, ...] = field(
        "folders of sweeps, or files of figures as JSON", default=(), positional=True
    )

    def __post_init__(self) -> None:
        if not self.folders:
            raise SettingError("expected at least one folder of a sweep, got none")

    def run(self) -> None:
        """Draw, and name the files, or print."""
        from benchmarks import sweeps, verdicts

        for folder in self.folders:
            if folder.suffix == ".json":
                print(verdicts.table(folder))
                continue
            print("\n".join(str(path) for path in sweeps.draw(folder)))
