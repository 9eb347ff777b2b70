"""Thresholds with a guarantee that holds for every distribution and every finite sample.

Both guarantees are for inputs drawn as the calibration data were, and hold with probability at
least 1 - delta over the draw of these data. They are won by split fixed-sequence testing
(Angelopoulos et al. 2021, "Learn then Test", section 4.2): a tenth of the data only orders the
thresholds, from its safest one downwards; on the other nine tenths they are tested one after the
other, each at the full delta, and the first that fails ends the walk. As the order does not depend
on the data of the tests, choosing the last that passed costs no correction.

Every test is an exact tail of the binomial distribution (Clopper and Pearson 1934). Ties are one
threshold, so the coarse confidences of a quantized model need no care.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy import stats

from export.calibration.sample import Choice, Sample
from export.errors import CalibrationError

ORDERED_BY = 0.1
"""Share of the data that orders the thresholds. Its thresholds are also the steps of the walk: with
fewer of them the walk stops too far from the edge, with more the tests lack data."""
_SEED = 0
_MOST = 1 << 24  # inputs that a refusal still calls possible
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Certificate(ABC):
    """A guarantee to win.

    Attributes:
        limit: The risk that must not be exceeded, in (0, 1).
        delta: Probability of exceeding it all the same, in (0, 1).
        what: What the risk is, for messages.
    """

    limit: float
    delta: float
    what: ClassVar[str]

    @abstractmethod
    def test(self, sample: Sample, thresholds: npt.NDArray[np.float32]) -> Floats:
        """Return for each threshold what passes with at most `pass_at`, float64 [k]."""

    @abstractmethod
    def forecast(self, sample: Sample, thresholds: npt.NDArray[np.float32], n: int) -> Floats:
        """Return what `test` is to be expected to say of n other inputs, float64 [k]."""

    @property
    @abstractmethod
    def pass_at(self) -> float:
        """The greatest result of a test that passes."""

    @abstractmethod
    def counts(self, sample: Sample, threshold: np.float32) -> dict[str, Any]:
        """Return the counts behind the test of one threshold, for the record."""

    def choose(self, sample: Sample) -> Choice:
        """Return the threshold that lets M_S answer most under the guarantee.

        Raises:
            CalibrationError: The data support none; the message names how many could.
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
        size = len(sample)
        thresholds = sample.thresholds()
        answering = sample.answered(thresholds) > 0
        while size < _MOST:
            size = math.ceil(size * 1.1)
            expected = self.forecast(sample, thresholds, round(size * (1 - ORDERED_BY)))
            if (expected[answering] <= self.pass_at).any():
                return (
                    f"{len(sample)} inputs do not support {self._promise()}: about {size} could, "
                    "or ask for less"
                )
        return (
            f"no number of inputs like these {len(sample)} supports {self._promise()}: at every "
            "threshold it is more than that; ask for less, or train M_S further"
        )

    def _promise(self) -> str:
        return f"{self.what} of at most {self.limit:g} with probability {1 - self.delta:g}"


class RiskCertificate(Certificate):
    """The selective risk is at most the limit: the share of wrong ones among M_S's answers.

    Geifman and El-Yaniv 2017, eq. 2. Of k answered inputs the wrong ones are binomial around the
    risk, so the p-value of "the risk is above the limit" is the lower tail at the limit.
    """

    what: ClassVar[str] = "a share of errors among M_S's answers"

    def test(self, sample: Sample, thresholds: npt.NDArray[np.float32]) -> Floats:
        """Return the p-values."""
        wrong = sample.answered(thresholds, ~sample.right)
        return np.asarray(stats.binom.cdf(wrong, sample.answered(thresholds), self.limit))

    def forecast(self, sample: Sample, thresholds: npt.NDArray[np.float32], n: int) -> Floats:
        """Return p-values at the rates seen, with one more error and one more success than seen.

        Else a few inputs without an error would look safest.
        """
        answered = sample.answered(thresholds)
        rate = (sample.answered(thresholds, ~sample.right) + 1) / (answered + 2)
        scaled = np.round(answered * (n / len(sample)))
        return np.asarray(stats.binom.cdf(np.round(rate * scaled), scaled, self.limit))

    @property
    def pass_at(self) -> float:
        """Delta: the p-value is the bound."""
        return self.delta

    def counts(self, sample: Sample, threshold: np.float32) -> dict[str, Any]:
        """Return answered, wrong and the p-value."""
        at = np.array([threshold])
        return {
            "answered": int(sample.answered(at)[0]),
            "wrong": int(sample.answered(at, ~sample.right)[0]),
            "p_value": float(self.test(sample, at)[0]),
        }


class HarmCertificate(Certificate):
    """The joint accuracy of the cascade is at most the limit under the accuracy of M_L alone.

    The harm is P(answered, M_S wrong, M_L right) - P(answered, M_S right, M_L wrong). Its upper
    bound is the upper Clopper-Pearson limit of the first minus the lower one of the second, each at
    delta / 2.
    """

    what: ClassVar[str] = "a loss of accuracy against M_L"

    def test(self, sample: Sample, thresholds: npt.NDArray[np.float32]) -> Floats:
        """Return upper bounds of the harm."""
        return self.forecast(sample, thresholds, len(sample))

    def forecast(self, sample: Sample, thresholds: npt.NDArray[np.float32], n: int) -> Floats:
        """Return the bounds at the rates seen."""
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
        """The limit: the bound is one of the harm itself."""
        return self.limit

    def counts(self, sample: Sample, threshold: np.float32) -> dict[str, Any]:
        """Return what answering on the device loses and wins, and the bound."""
        at = np.array([threshold])
        return {
            "answered": int(sample.answered(at)[0]),
            "lost": int(self._count(sample, at, lost=True)[0]),
            "won": int(self._count(sample, at, lost=False)[0]),
            "upper_bound": float(self.test(sample, at)[0]),
        }

    @staticmethod
    def _count(sample: Sample, thresholds: npt.NDArray[np.float32], *, lost: bool) -> Any:
        assert sample.large_right is not None  # noqa: S101 - the goal asked for M_L's answers
        small, large = sample.right, sample.large_right
        return sample.answered(thresholds, ~small & large if lost else small & ~large)
