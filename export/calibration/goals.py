"""What a threshold can be chosen for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from export.calibration.certificates import HarmCertificate, RiskCertificate
from export.calibration.sample import Choice, Sample, require_enough, threshold_for_deferral_ratio
from export.errors import CalibrationError


class Goal(Protocol):
    """Something to choose a threshold for.

    Attributes:
        name: What the record calls it.
        target: The number that was asked for.
        needs_large: Whether M_L's answers must be known.
        is_certified: Whether it comes with a guarantee, so that nothing else may be chosen on the
            same data.
    """

    name: ClassVar[str]
    needs_large: ClassVar[bool]
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
    needs_large: ClassVar[bool] = False
    is_certified: ClassVar[bool] = False

    def choose(self, sample: Sample) -> Choice:
        """See `Goal`."""
        require_enough(len(sample), self.target)
        return Choice(threshold_for_deferral_ratio(sample.confidence, self.target))


@dataclass(frozen=True)
class TargetAccuracy:
    """Answer as much as the data allow with so much accuracy among what M_S answers."""

    target: float
    name: ClassVar[str] = "target_accuracy"
    needs_large: ClassVar[bool] = False
    is_certified: ClassVar[bool] = False

    def choose(self, sample: Sample) -> Choice:
        """See `Goal`."""
        thresholds = sample.thresholds()
        answered = sample.answered(thresholds)
        right = sample.answered(thresholds, sample.right)
        # Counts, not shares: 0.95 * 20 is more than 19 in binary.
        reached = np.flatnonzero((answered > 0) & (right >= self.target * answered - 1e-9))
        if not reached.size:
            best = float((right[1:] / answered[1:]).max(initial=0.0))
            raise CalibrationError(
                f"expected a threshold with {self.target:.1%} right among the answers of M_S, the "
                f"best has {best:.1%}: ask for less, or train M_S further"
            )
        last = int(reached[-1])
        return Choice(
            thresholds[last], {"answered": int(answered[last]), "right": int(right[last])}
        )


@dataclass(frozen=True)
class MaxRisk:
    """Answer as much as possible while errors among the answers of M_S stay under a bound."""

    target: float
    delta: float
    name: ClassVar[str] = "max_risk"
    needs_large: ClassVar[bool] = False
    is_certified: ClassVar[bool] = True

    def choose(self, sample: Sample) -> Choice:
        """See `Goal`."""
        return RiskCertificate(self.target, self.delta).choose(sample)


@dataclass(frozen=True)
class MaxHarm:
    """Answer as much as possible while the cascade stays near the accuracy of M_L."""

    target: float
    delta: float
    name: ClassVar[str] = "max_harm"
    needs_large: ClassVar[bool] = True
    is_certified: ClassVar[bool] = True

    def choose(self, sample: Sample) -> Choice:
        """See `Goal`."""
        return HarmCertificate(self.target, self.delta).choose(sample)


@dataclass(frozen=True)
class LeastCost:
    """Pay least: so much a call to the cloud, so much a wrong answer, whoever gave it.

    Where M_L's answers are not known it is taken to be right always.
    """

    cloud_cost: float
    error_cost: float
    name: ClassVar[str] = "least_cost"
    needs_large: ClassVar[bool] = False
    is_certified: ClassVar[bool] = False

    @property
    def target(self) -> float:
        """Cost of a call in wrong answers."""
        return self.cloud_cost / self.error_cost

    def choose(self, sample: Sample) -> Choice:
        """See `Goal`."""
        thresholds = sample.thresholds()
        n = len(sample)
        deferred = n - sample.answered(thresholds)
        errors = sample.answered(thresholds, ~sample.right)
        if sample.large_right is not None:
            wrong = ~sample.large_right
            errors = errors + wrong.sum() - sample.answered(thresholds, wrong)
        cost = (self.cloud_cost * deferred + self.error_cost * errors) / n
        # Of equal costs the one that asks the cloud least.
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
