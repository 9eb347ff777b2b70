"""What a drift alarm expects, how often it may be wrong, and what it can find."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt
from typing import Final

from edge_runtime.errors import SettingError
from edge_runtime.policies.drift_statistics import bound_for

_BUCKETS: Final = 20  # one that holds the change, the others the window
WINDOW_BUCKETS: Final = _BUCKETS - 1
"""How many groups of calls the moving window goes over."""
_GREATEST_ALPHA: Final = 0.5  # the bound's approximation is for rare alarms
_FEWEST_WITHIN: Final = 200  # calls: buckets of ten
_WINDOW_SHARE: Final = 0.9  # of alpha; the rest goes to the test of all calls
_POWER_95: Final = 1.645  # standard deviations


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """What a drift alarm expects, and how often it may be wrong.

    A false alarm is one while calls and calibration data are drawn alike and independently; of
    alike neighbours see `repeats`.

    Attributes:
        expected_ratio: The deferral ratio on the calibration data.
        samples: How many calibration inputs that ratio comes from; None where it is exact.
        alpha: Most probability of a false alarm in `horizon_calls` calls, e.g. a month's.
        horizon_calls: How many calls that is; on average false alarms are `horizon_calls / alpha`
            calls apart.
        within_calls: Within how many calls a change should be found. More finds smaller ones.
        repeats: How many neighbouring calls are as good as one, e.g. 30 where a scene lasts 30
            frames of a video. Too small a number gives false alarms, too large a deaf alarm.

    Raises:
        SettingError: A setting is out of range.

    Example:
        >>> round(DriftSettings(expected_ratio=0.3).detectable_shift(), 3)
        0.048
    """

    expected_ratio: float
    samples: int | None = None
    alpha: float = 0.1
    horizon_calls: int = 10_000
    within_calls: int = 2_000
    repeats: float = 1.0

    def __post_init__(self) -> None:
        self._check_expected()
        if not 0.0 < self.alpha <= _GREATEST_ALPHA:
            raise SettingError(
                "expected alpha, the probability of a false alarm, in (0, "
                f"{_GREATEST_ALPHA}], got {self.alpha}"
            )
        if self.within_calls < _FEWEST_WITHIN:
            raise SettingError(
                f"expected within_calls of at least {_FEWEST_WITHIN}, got {self.within_calls}: "
                "fewer calls tell no drift from chance"
            )
        if self.horizon_calls < self.within_calls:
            raise SettingError(
                f"expected horizon_calls of at least within_calls = {self.within_calls}, got "
                f"{self.horizon_calls}: state alpha for more calls"
            )
        if not 1.0 <= self.repeats <= self.within_calls / _BUCKETS:
            raise SettingError(
                f"expected repeats in [1, within_calls / {_BUCKETS} = "
                f"{self.within_calls / _BUCKETS:g}], got {self.repeats}: raise within_calls"
            )

    def _check_expected(self) -> None:
        if self.samples is None and not 0.0 < self.expected_ratio < 1.0:
            raise SettingError(
                f"expected an exact expected_ratio in (0, 1), got {self.expected_ratio}: at 0 and "
                "1 give samples, the number of inputs it was found on"
            )
        if not 0.0 <= self.expected_ratio <= 1.0:
            raise SettingError(f"expected expected_ratio in [0, 1], got {self.expected_ratio}")
        if self.samples is not None and self.samples < 1:
            raise SettingError(f"expected samples of at least 1, got {self.samples}")

    @property
    def bucket_calls(self) -> int:
        """After how many calls the tests are looked at."""
        return self.within_calls // _BUCKETS

    @property
    def window_calls(self) -> int:
        """Length of the moving window."""
        return self.bucket_calls * WINDOW_BUCKETS

    @cached_property
    def bound(self) -> float:
        """Standard deviations between window and reference from which the alarm is given."""
        looks = self.horizon_calls / self.bucket_calls
        return bound_for(_WINDOW_SHARE * self.alpha, looks, WINDOW_BUCKETS)

    @property
    def evidence(self) -> float:
        """Log evidence of all calls from which the alarm is given."""
        return -log((1.0 - _WINDOW_SHARE) * self.alpha)

    def detectable_shift(self, after_calls: int = 0) -> float:
        """Return which shift of the ratio is found within `within_calls` in 95 of 100 cases.

        Args:
            after_calls: Calls before the change; they sharpen the reference where `samples` is
                small.

        Returns:
            About the least such shift, as a difference of ratios.
        """
        p = self.expected_ratio
        inverse = 1.0 / self.window_calls
        if self.samples is not None:
            p = (self.samples * p + 0.5) / (self.samples + 1)
            # Calibration inputs are drawn one by one, calls repeat themselves.
            inverse += 1.0 / (self.samples * self.repeats + after_calls)
        return (self.bound + _POWER_95) * sqrt(p * (1.0 - p) * inverse * self.repeats)
