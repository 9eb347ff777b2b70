"""Goals for a threshold, with and without a guarantee.

A guarantee holds for every distribution and every finite sample, for inputs drawn like the
calibration data, with probability at least 1 - delta over the draw of these data. It comes from
split fixed-sequence testing (Angelopoulos et al. 2021, "Learn then Test", section 4.2). One tenth
of the data only orders the thresholds, from the safest one downwards. On the other nine tenths they
are tested one after the other, each at the full delta, until the first one fails. The order does
not depend on the data of the tests, so choosing the last threshold that passed needs no correction.

Every test is an exact tail of the binomial distribution (Clopper and Pearson 1934). Tied
confidences form one threshold, so the coarse confidences of a quantized model need no special care.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from export.calibration.sample import Choice, Sample, require_enough, threshold_for_deferral_ratio
from export.errors import CalibrationError

ORDERED_BY = 0.1
"""Share of the data that orders the thresholds. Its thresholds are also the steps of the walk: with
fewer of them the walk stops too far from the edge, with more the tests lack data."""
_SEED = 0
_MOST_INPUTS = 1 << 24  # a refusal suggests no more inputs than this
Floats = npt.NDArray[np.float64]
Thresholds = npt.NDArray[np.float32]


class Goal(Protocol):
    """A rule that chooses a threshold.

    Attributes:
        name: Name of the goal in the calibration record.
        target: The number that was asked for.
        is_certified: Whether the threshold comes with a guarantee, so that nothing else may be
            chosen on the same data.
    """

    name: ClassVar[str]
    is_certified: ClassVar[bool]

    @property
    def target(self) -> float: ...  # noqa: D102 - an attribute

    def choose(self, sample: Sample) -> Choice:
        """Return the threshold.

        Raises:
            CalibrationError: The data cannot give one.
        """


@dataclass(frozen=True)
class TargetDeferral:
    """Defer at most a share of the inputs, and nearly that share."""

    target: float
    name: ClassVar[str] = "target_deferral"
    is_certified: ClassVar[bool] = False

    def choose(self, sample: Sample) -> Choice:
        """Return the largest threshold that defers at most the share."""
        require_enough(len(sample), self.target)
        return Choice(threshold_for_deferral_ratio(sample.confidence, self.target))


@dataclass(frozen=True)
class TargetAccuracy:
    """Answer as much as possible with at least this accuracy of M_S's answers."""

    target: float
    name: ClassVar[str] = "target_accuracy"
    is_certified: ClassVar[bool] = False

    def choose(self, sample: Sample) -> Choice:
        """Return the lowest threshold that reaches the accuracy on the sample."""
        thresholds = sample.thresholds()
        answered = sample.answered(thresholds)
        right = sample.answered(thresholds, sample.right)
        # Counts, not shares: 0.95 * 20 is more than 19 in binary.
        reached = np.flatnonzero((answered > 0) & (right >= self.target * answered - 1e-9))
        if not reached.size:
            best = float((right[1:] / answered[1:]).max(initial=0.0))
            raise CalibrationError(
                f"expected a threshold with {self.target:.1%} of M_S's answers right, the best has "
                f"{best:.1%}: ask for less, or train M_S further"
            )
        last = int(reached[-1])
        return Choice(
            thresholds[last], {"answered": int(answered[last]), "right": int(right[last])}
        )


@dataclass(frozen=True)
class LeastCost:
    """Minimise the cost of calls to the cloud and of wrong answers, of M_S or M_L.

    M_L counts as always right unless its answers are known.
    """

    cloud_cost: float
    error_cost: float
    name: ClassVar[str] = "least_cost"
    is_certified: ClassVar[bool] = False

    @property
    def target(self) -> float:
        """Cost of a call in wrong answers."""
        return self.cloud_cost / self.error_cost

    def choose(self, sample: Sample) -> Choice:
        """Return the cheapest threshold; of equal costs the one with the fewest calls."""
        thresholds = sample.thresholds()
        n = len(sample)
        deferred = n - sample.answered(thresholds)
        errors = sample.answered(thresholds, ~sample.right)
        if sample.large_right is not None:
            wrong = ~sample.large_right
            errors = errors + wrong.sum() - sample.answered(thresholds, wrong)
        cost = (self.cloud_cost * deferred + self.error_cost * errors) / n
        best = int(len(cost) - 1 - np.argmin(cost[::-1]))
        return Choice(
            thresholds[best],
            {
                "cloud_cost": self.cloud_cost,
                "error_cost": self.error_cost,
                "cost": float(cost[best]),
                "cost_all_edge": float(cost[-1]),
                "cost_all_cloud": float(cost[0]),
                "large_known": sample.large_right is not None,
            },
        )


@dataclass(frozen=True)
class Certificate(ABC):
    """A goal with a guarantee.

    Attributes:
        target: Largest risk allowed, in (0, 1).
        delta: Probability of exceeding it all the same, in (0, 1).
        risk: Description of the risk, for messages.
    """

    target: float
    delta: float
    name: ClassVar[str]
    risk: ClassVar[str]
    is_certified: ClassVar[bool] = True

    @abstractmethod
    def test(self, sample: Sample, thresholds: Thresholds) -> Floats:
        """Return the statistic of each threshold, which passes up to `pass_at`, float64 [k]."""

    @abstractmethod
    def forecast(self, sample: Sample, thresholds: Thresholds, n: int) -> Floats:
        """Return the statistic to expect of n other inputs, float64 [k]."""

    @property
    @abstractmethod
    def pass_at(self) -> float:
        """The largest statistic that passes."""

    @abstractmethod
    def counts(self, sample: Sample, threshold: np.float32) -> dict[str, Any]:
        """Return the counts behind the test of one threshold, for the record."""

    def choose(self, sample: Sample) -> Choice:
        """Return the threshold that lets M_S answer most under the guarantee.

        Raises:
            CalibrationError: The data support none; the message estimates how many would.
        """
        rows = np.random.default_rng(_SEED).permutation(len(sample))
        cut = max(1, round(len(sample) * ORDERED_BY))
        order, tested = sample.take(rows[:cut]), sample.take(rows[cut:])
        thresholds = order.thresholds()
        start = int(np.argmin(self.forecast(order, thresholds, len(tested))))
        walk = thresholds[start:]
        passed = self.test(tested, walk) <= self.pass_at
        steps = len(walk) if passed.all() else int(np.argmin(passed))
        if steps == 0 or tested.answered(walk[steps - 1 : steps])[0] == 0:
            raise CalibrationError(self._refusal(sample))
        threshold = walk[steps - 1]
        return Choice(
            threshold,
            {
                "delta": self.delta,
                "method": "split fixed-sequence testing with exact binomial tails",
                "ordered_by": len(order),
                "tested_on": len(tested),
                **self.counts(tested, threshold),
            },
        )

    def _refusal(self, sample: Sample) -> str:
        promise = f"{self.risk} of at most {self.target:g} with probability {1 - self.delta:g}"
        size = len(sample)
        thresholds = sample.thresholds()
        answering = sample.answered(thresholds) > 0
        while size < _MOST_INPUTS:
            size = math.ceil(size * 1.1)
            expected = self.forecast(sample, thresholds, round(size * (1 - ORDERED_BY)))
            if (expected[answering] <= self.pass_at).any():
                return (
                    f"{len(sample)} inputs do not support {promise}: use about {size}, or ask for "
                    "less"
                )
        return (
            f"no number of inputs like these {len(sample)} supports {promise}: every threshold "
            "exceeds it; ask for less, or train M_S further"
        )


class MaxRisk(Certificate):
    """Answer as much as possible with at most this selective risk, guaranteed.

    The selective risk is the share of wrong answers among M_S's own (Geifman and El-Yaniv 2017,
    eq. 2). Of k answered inputs the wrong ones are binomial around the risk, so the p-value of
    "the risk is above the target" is the lower tail at the target.
    """

    name: ClassVar[str] = "max_risk"
    risk: ClassVar[str] = "a share of errors among M_S's answers"

    def test(self, sample: Sample, thresholds: Thresholds) -> Floats:
        """Return the p-values."""
        wrong = sample.answered(thresholds, ~sample.right)
        return np.asarray(stats.binom.cdf(wrong, sample.answered(thresholds), self.target))

    def forecast(self, sample: Sample, thresholds: Thresholds, n: int) -> Floats:
        """Return p-values at the observed rates, with one more error and one more success.

        Otherwise a few inputs without an error would look safest.
        """
        answered = sample.answered(thresholds)
        rate = (sample.answered(thresholds, ~sample.right) + 1) / (answered + 2)
        scaled = np.round(answered * (n / len(sample)))
        return np.asarray(stats.binom.cdf(np.round(rate * scaled), scaled, self.target))

    @property
    def pass_at(self) -> float:
        """Delta: the statistic is a p-value."""
        return self.delta

    def counts(self, sample: Sample, threshold: np.float32) -> dict[str, Any]:
        """Return the answered and wrong inputs, and the p-value."""
        at = np.array([threshold])
        return {
            "answered": int(sample.answered(at)[0]),
            "wrong": int(sample.answered(at, ~sample.right)[0]),
            "p_value": float(self.test(sample, at)[0]),
        }


class MaxHarm(Certificate):
    """Answer as much as possible with at most this loss of accuracy against M_L, guaranteed.

    The harm of the cascade is P(answered, M_S wrong, M_L right) - P(answered, M_S right, M_L
    wrong). Its upper bound is the upper Clopper-Pearson limit of the first minus the lower one of
    the second, each at delta / 2.
    """

    name: ClassVar[str] = "max_harm"
    risk: ClassVar[str] = "a loss of accuracy against M_L"

    def test(self, sample: Sample, thresholds: Thresholds) -> Floats:
        """Return upper bounds of the harm."""
        return self.forecast(sample, thresholds, len(sample))

    def forecast(self, sample: Sample, thresholds: Thresholds, n: int) -> Floats:
        """Return the bounds at the observed rates."""
        lost, won = (
            np.round(self._count(sample, thresholds, lost=which) * (n / len(sample)))
            for which in (True, False)
        )
        half = self.delta / 2
        upper = np.where(lost < n, stats.beta.ppf(1 - half, lost + 1, np.maximum(n - lost, 1)), 1.0)
        lower = np.where(won > 0, stats.beta.ppf(half, np.maximum(won, 1), n - won + 1), 0.0)
        return np.asarray(upper - lower)

    @property
    def pass_at(self) -> float:
        """The target: the statistic bounds the harm itself."""
        return self.target

    def counts(self, sample: Sample, threshold: np.float32) -> dict[str, Any]:
        """Return the inputs that answering on the device loses and wins, and the bound."""
        at = np.array([threshold])
        return {
            "answered": int(sample.answered(at)[0]),
            "lost": int(self._count(sample, at, lost=True)[0]),
            "won": int(self._count(sample, at, lost=False)[0]),
            "upper_bound": float(self.test(sample, at)[0]),
        }

    @staticmethod
    def _count(sample: Sample, thresholds: Thresholds, *, lost: bool) -> Any:
        assert sample.large_right is not None  # noqa: S101 - the settings require M_L for this goal
        small, large = sample.right, sample.large_right
        return sample.answered(thresholds, ~small & large if lost else small & ~large)
