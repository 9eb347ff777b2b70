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

    Example: python -m benchmarks check runs/demo
    """

    folders: tuple[Path, ...] = field(
        "result folders (default: those of the repository)", default=(), positional=True
    )

    def run(self) -> None:
        """Fail on the first figure that is not what its samples give."""
        from benchmarks import results, sweeps

        folders = self.folders or tuple(sorted(p.parent for p in COMMITTED.glob("*/*samples*")))
        if not folders:
            raise CheckError(f"expected a result folder, found none under {COMMITTED}: name one")
        for folder in folders:
            check = sweeps.check if sweeps.is_sweep(folder) else results.check
            print(f"{folder}: {check(folder)} figures recomputed, all as printed")
