"""The command `python -m benchmarks check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import CheckError
from edge_runtime.cli import field

COMMITTED = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
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
        from benchmarks import language, results, sweeps, verdicts

        folders = self.folders or _committed()
        if not folders:
            raise CheckError(f"expected a result folder, found none under {COMMITTED}: name one")
        kinds = ((sweeps.is_sweep, sweeps.check), (language.is_language, language.check))
        for folder in folders:
            if folder.suffix == ".json":
                print(f"{folder}: {verdicts.check(folder)} figures, all verdicts as they follow")
                continue
            check = next((c for is_its, c in kinds if is_its(folder)), results.check)
            print(f"{folder}: {check(folder)} figures recomputed, all as printed")


def _committed() -> tuple[Path, ...]:
    from benchmarks.verdicts import holds_figures

    folders = sorted(path.parent for path in COMMITTED.glob("*/*samples*"))
    return (*folders, *filter(holds_figures, sorted(COMMITTED.glob("*.json"))))
