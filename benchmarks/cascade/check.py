"""The command `python -m benchmarks check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import CheckError
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

# MERGEDOC benchmarks/report.py: 'The command `python -m benchmarks report`.'

COMMITTED = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Command):
    """Recompute every printed figure of result folders from their per-sample files.

    And those of a file of figures from the samples in it, with every verdict.

    Example: python -m benchmarks check runs/demo
    """

    folders: tuple[Path, ...] = field(
        "result folders, or files of figures as JSON (default: those of the repository)",
        default=(),
        positional=True,
    )

    def run(self) -> None:
        """Fail on the first figure that is not what its samples give."""
        from benchmarks import figures
        from benchmarks.cascade import report as results
        from benchmarks.cascade import sweeps
        from benchmarks.language.demo import report

        folders = self.folders or _committed()
        if not folders:
            raise CheckError(f"expected a result folder, found none under {COMMITTED}: name one")
        kinds = ((sweeps.is_sweep, sweeps.check), (report.is_language, report.check))
        for folder in folders:
            if folder.suffix == ".json":
                print(f"{folder}: {figures.check(folder)} figures, all verdicts as they follow")
                continue
            check = next((c for is_its, c in kinds if is_its(folder)), results.check)
            print(f"{folder}: {check(folder)} figures recomputed, all as printed")


def _committed() -> tuple[Path, ...]:
    from benchmarks.figures import holds_figures

    folders = sorted({path.parent for path in COMMITTED.glob("*/*samples*")})
    return (*folders, *filter(holds_figures, sorted(COMMITTED.glob("*.json"))))


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Command):
    """Draw the pictures of a sweep into its folder; of a file of figures, print the table.

    Example: python -m benchmarks report runs/sweep
    """

    folders: tuple[Path, ...] = field(
        "folders of sweeps, or files of figures as JSON", default=(), positional=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.folders:
            raise SettingError("expected at least one folder of a sweep, got none")

    def run(self) -> None:
        """Draw, and name the files, or print."""
        from benchmarks import figures
        from benchmarks.cascade import sweeps

        for folder in self.folders:
            if folder.suffix == ".json":
                print(figures.table(folder))
                continue
            print("\n".join(str(path) for path in sweeps.draw(folder)))
