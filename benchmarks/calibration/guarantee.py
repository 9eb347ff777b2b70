"""Counts how often certified thresholds break their guarantee, on populations of known risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from tqdm.auto import tqdm

from benchmarks.cascade import report
from benchmarks.cascade.samples import read_samples
from benchmarks.commands.figures import GuaranteeSettings
from benchmarks.documents import write_json
from benchmarks.errors import CheckError
from edge_runtime import environment
from export.calibration import MaxRisk, Sample
from export.errors import CalibrationError

_POPULATION = 1_000_000
_CLASSES = 10
_RIGHT = 0.8
_LEVEL = 1e-3


@dataclass(frozen=True)
class Population:
    """All inputs that can be drawn.

    Attributes:
        confidence: Confidences in descending order, float32 [N].
        right: Whether M_S is right, bool [N].
    """

    confidence: npt.NDArray[np.float32]
    right: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, confidence: Any, right: Any) -> Population:
        """Sort the inputs by confidence."""
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
        """Return the number of inputs at or above a threshold."""
        return int(np.searchsorted(-self.confidence, -threshold, side="right"))


def beta_separated(draws: np.random.Generator) -> Population:
    """Draw confidences of right and wrong answers from two beta distributions; 80 % are right."""
    right = draws.random(_POPULATION) < _RIGHT
    confidence = np.where(right, draws.beta(6, 1.5, _POPULATION), draws.beta(2.5, 2.5, _POPULATION))
    return Population.of(confidence, right)


def miscalibrated_logits(draws: np.random.Generator) -> Population:
    """Draw the max softmax of normal logits scaled by three, which is overconfident."""
    logits = draws.normal(size=(_POPULATION, _CLASSES))
    logits[:, 0] += 2.2
    scaled = 3 * (logits - logits.max(axis=1, keepdims=True))
    return Population.of(1 / np.exp(scaled).sum(axis=1), logits.argmax(axis=1) == 0)


def measure(settings: GuaranteeSettings) -> None:
    """Print the violations on each population, and write them to a file if one is named.

    Raises:
        CheckError: A guarantee is broken more often than it promises.
    """
    draws = np.random.default_rng(settings.seed)
    variants = read_samples(settings.samples / report.SAMPLES)
    control = variants["control" if "control" in variants else next(iter(variants))]
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
            f"{name}: {row['violations']} of {row['draws']} draws exceed a risk of "
            f"{settings.max_risk:.1%} (at most {settings.delta:.0%} promised, p = "
            f"{row['p_value']:.2g}); the device answers {row['coverage']:.1%}, with an oracle "
            f"{row['coverage_oracle']:.1%}, with the least strict test "
            f"{row['coverage_uncorrected']:.1%}; {row['refused']} draws refused"
        )
    if settings.out is not None:
        content = {**environment.describe("benchmarks"), "figures": figures}
        write_json(settings.out, content)
    broken = [name for name, row in figures.items() if row["p_value"] < _LEVEL]
    if broken:
        raise CheckError(f"the guarantee does not hold for {', '.join(broken)}")


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

    Choosing among all thresholds would need a correction, so no valid test can keep more.
    """
    thresholds = sample.thresholds()
    wrong = sample.answered(thresholds, ~sample.right)
    passed = stats.binom.cdf(wrong, sample.answered(thresholds), goal.target) <= goal.delta
    if not passed.any():
        return 0.0
    return population.answered(thresholds[passed][-1]) / len(population.right)
