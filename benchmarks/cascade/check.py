"""Checks result folders against their samples, and renders them anew."""

from __future__ import annotations

from pathlib import Path

from benchmarks import figures
from benchmarks.cascade import report as results
from benchmarks.cascade import sweeps
from benchmarks.commands.cascade import CheckSettings, ReportSettings
from benchmarks.errors import CheckError
from benchmarks.language.demo import report as language

COMMITTED = Path(__file__).parents[1] / "results"


def check(settings: CheckSettings) -> None:
    """Recompute every figure, and fail on the first that its samples do not give.

    Raises:
        CheckError: A figure or sentence differs, or there is no result folder.
    """
    folders = settings.folders or _committed()
    if not folders:
        raise CheckError(f"expected a result folder, found none under {COMMITTED}: name one")
    kinds = ((sweeps.is_sweep, sweeps.check), (language.is_language, language.check))
    for folder in folders:
        if folder.suffix == ".json":
            print(f"{folder}: {figures.check(folder)} figures, all verdicts as they follow")
            continue
        recompute = next((c for is_its, c in kinds if is_its(folder)), results.check)
        print(f"{folder}: {recompute(folder)} figures recomputed, all as printed")


def _committed() -> tuple[Path, ...]:
    folders = sorted({path.parent for path in COMMITTED.glob("*/*samples*")})
    return (*folders, *filter(figures.holds_figures, sorted(COMMITTED.glob("*.json"))))


def report(settings: ReportSettings) -> None:
    """Draw the pictures of sweeps and name their files; print the tables of files of figures."""
    for folder in settings.folders:
        if folder.suffix == ".json":
            print(figures.table(folder))
            continue
        print(*sweeps.draw(folder), sep="\n")
