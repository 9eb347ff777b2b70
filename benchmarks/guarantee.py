"""The command `python -m benchmarks guarantee`: does the certificate keep its promise?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_runtime.cli import field
from edge_runtime.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class GuaranteeSettings:
    """Choose thresholds on many calibration draws, and count how often the risk is over the bound.

    The populations are known exactly, so the true risk of a threshold is too. Fails when the
    violations are more than delta allows (one-sided binomial test at 0.001).

    Example: python -m benchmarks guarantee --out guarantee.json
    """

    draws: int = field("calibration draws from each population", default=2000)
    size: int = field("inputs a draw", default=5000)
    max_risk: float = field("the bound e", default=0.05)
    delta: float = field("how often it may fail, d", default=0.05)
    seed: int = field("seed of populations and draws", default=0)
    samples: Path = field(
        "result folder whose inputs are the third population",
        default=Path(__file__).parent / "results" / "cifar10-jpeg",
    )
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        for name in ("max_risk", "delta"):
            if not 0.0 < getattr(self, name) < 1.0:
                flag = name.replace("_", "-")
                raise SettingError(f"expected --{flag} in (0, 1), got {getattr(self, name)}")
        if self.draws < 1 or self.size < 1:
            raise SettingError("expected --draws and --size of at least 1")

    def run(self) -> None:
        """Print a line a population, and write the result."""
        from benchmarks.guarantee_figures import measure

        measure(self)
