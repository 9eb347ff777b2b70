"""The command `python -m benchmarks guarantee`: does the certificate keep its promise?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from tqdm.auto import tqdm

from benchmarks.cascade import report
from benchmarks.cascade.samples import read_samples
from benchmarks.commands.figures import GuaranteeSettings
from benchmarks.errors import CheckError
from edge_runtime import environment
from export.calibration import MaxRisk, Sample
from export.errors import CalibrationError

_POPULATION = 1_000_000
_CLASSES = 10
_RIGHT = 0.8
_LEVEL = 1e-3

# MERGEDOC benchmarks/guarantee_figures.py: 'Draws calibration data from known populations and holds certified thresholds to them.'


@dataclass(frozen=True)
class Population:
    """All the inputs there are.

    Attributes:
        confidence: float32 [N], from the greatest down.
        right: bool [N].
    """

    confidence: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, confidence: Any, right: Any) -> Population:
        """Sort it."""
        order = np.argsort(-confidence, kind="stable")
        return cls(confidence[order].astype(np.float32), right[order])

    def draw(self, draws: np.random.Generator, size: int) -> Sample:
        """Return inputs drawn with replacement."""
        rows = draws.integers(len(self.right), size=size)
        return Sample(self.confidence[rows], self.right[rows])

    def risks(self) -> npt.NDArray[np.float64]:
        """Return the risk among the first 1, 2, ... N inputs."""
        return np.cumsum(~self.right) / np.arange(1, len(self.right) + 1)

    def answered(self, threshold: np.float32) -> int:
        """Return how many inputs lie at or above a threshold."""
        return int(np.searchsorted(-self.confidence, -threshold, side="right"))


def beta_separated(draws: np.random.Generator) -> Population:
    """Four of five right; confidences of right and wrong from two beta distributions."""
    right = draws.random(_POPULATION) < _RIGHT
    confidence = np.where(right, draws.beta(6, 1.5, _POPULATION), draws.beta(2.5, 2.5, _POPULATION))
    return Population.of(confidence, right)


def miscalibrated_logits(draws: np.random.Generator) -> Population:
    """Max softmax of normal logits, three times too large: overconfident."""
    logits = draws.normal(size=(_POPULATION, _CLASSES))
    logits[:, 0] += 2.2
    scaled = 3 * (logits - logits.max(axis=1, keepdims=True))
    return Population.of(1 / np.exp(scaled).sum(axis=1), logits.argmax(axis=1) == 0)


def measure(settings: GuaranteeSettings) -> None:
    """Measure, print and write; see `GuaranteeSettings`.

    Raises:
        CheckError: A guarantee is broken more often than it may be.
    """
    draws = np.random.default_rng(settings.seed)
    found = read_samples(settings.samples / report.SAMPLES)
    control = found["control" if "control" in found else next(iter(found))]
    populations = {
        "beta-separated": beta_separated(draws),
        "miscalibrated logits": miscalibrated_logits(draws),
        f"{settings.samples.name}, resampled": Population.of(
            control.confidence[:, 0], control.small_quality[:, 0] == 1
        ),
    }
    figures = {name: _figures(p, draws, settings, name) for name, p in populations.items()}
    for name, row in figures.items():
        print(
            f"{name}: {row['violations']} of {row['draws']} draws over {settings.max_risk:.1%} "
            f"(at most {settings.delta:.0%} promised, p = {row['p_value']:.2g}); answers "
            f"{row['coverage']:.1%}, an oracle {row['coverage_oracle']:.1%}, the least strict test "
            f"{row['coverage_uncorrected']:.1%}; {row['refused']} refused"
        )
    if settings.out is not None:
        content = {**environment.describe("benchmarks"), "figures": figures}
        settings.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    broken = [name for name, row in figures.items() if row["p_value"] < _LEVEL]
    if broken:
        raise CheckError(f"expected the guarantee to hold, it does not for {', '.join(broken)}")


def _figures(
    population: Population, draws: np.random.Generator, settings: GuaranteeSettings, name: str
) -> dict[str, Any]:
    risks = population.risks()
    goal = MaxRisk(settings.max_risk, settings.delta)
    coverage, uncorrected = np.zeros(settings.draws), np.zeros(settings.draws)
    violations = refused = 0
    for i in tqdm(range(settings.draws), desc=name, leave=False, disable=None):
        sample = population.draw(draws, settings.size)
        uncorrected[i] = _uncorrected(population, sample, goal)
        try:
            answered = population.answered(goal.choose(sample).threshold)
        except CalibrationError:
            refused += 1
            continue
        coverage[i] = answered / len(risks)
        violations += bool(answered and risks[answered - 1] > goal.target)
    under = np.flatnonzero(risks <= goal.target)
    return {
        "draws": settings.draws,
        "size": settings.size,
        "max_risk": goal.target,
        "delta": goal.delta,
        "violations": violations,
        "p_value": float(
            stats.binomtest(
                violations, settings.draws, settings.delta, alternative="greater"
            ).pvalue
        ),
        "refused": refused,
        "coverage": float(coverage.mean()),
        "coverage_oracle": float((under[-1] + 1) / len(risks)) if under.size else 0.0,
        "coverage_uncorrected": float(uncorrected.mean()),
    }


def _uncorrected(population: Population, sample: Sample, goal: MaxRisk) -> float:
    """Return the coverage of the lowest threshold that passes one test at delta.

    Choosing it among all would need a correction: what it keeps is the most that tests can.
    """
    thresholds = sample.thresholds()
    wrong = sample.answered(thresholds, ~sample.right)
    passed = stats.binom.cdf(wrong, sample.answered(thresholds), goal.target) <= goal.delta
    if not passed.any():
        return 0.0
    return population.answered(thresholds[passed][-1]) / len(population.right)
