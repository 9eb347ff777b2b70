"""Settings of a drift alarm, and the shift that it can detect with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt
from typing import Final

from edge_runtime.errors import SettingError
from edge_runtime.policies.drift_statistics import bound_for

_BUCKETS: Final = 20  # one holds the change, the others are the window
WINDOW_BUCKETS: Final = _BUCKETS - 1
"""Groups of calls in the moving window."""
_GREATEST_ALPHA: Final = 0.5  # the bound's approximation is for rare alarms
_FEWEST_WITHIN: Final = 200  # calls: buckets of ten
_WINDOW_SHARE: Final = 0.9  # of alpha; the rest goes to the test of all calls
_POWER_95: Final = 1.645  # standard deviations


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """Expected deferral ratio, false-alarm rate and sensitivity of a drift alarm.

    An alarm is false if calls and calibration data come from one distribution and are independent;
    for similar neighbouring calls set `repeats`.

    Attributes:
        expected_ratio: The deferral ratio on the calibration data.
        samples: Number of calibration inputs behind that ratio; None where it is exact.
        alpha: Upper bound of the false-alarm probability in `horizon_calls` calls, e.g. a month's.
        horizon_calls: Number of calls that `alpha` refers to; on average false alarms are
            `horizon_calls / alpha` calls apart.
        within_calls: Number of calls within which a change should be found. With more of them,
            smaller changes are found.
        repeats: Number of neighbouring calls worth one independent call, e.g. 30 where a scene
            lasts 30 frames of a video. Too small gives false alarms, too large misses changes.

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
                "fewer calls cannot distinguish drift from chance"
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
                "1 give samples, the number of inputs behind it"
            )
        if not 0.0 <= self.expected_ratio <= 1.0:
            raise SettingError(f"expected expected_ratio in [0, 1], got {self.expected_ratio}")
        if self.samples is not None and self.samples < 1:
            raise SettingError(f"expected samples of at least 1, got {self.samples}")

    @property
    def bucket_calls(self) -> int:
        """Calls between two evaluations of the tests."""
        return self.within_calls // _BUCKETS

    @property
    def window_calls(self) -> int:
        """Length of the moving window in calls."""
        return self.bucket_calls * WINDOW_BUCKETS

    @cached_property
    def bound(self) -> float:
        """Distance between window and reference that raises the alarm, in standard deviations."""
        steps = self.horizon_calls / self.bucket_calls
        return bound_for(_WINDOW_SHARE * self.alpha, steps, WINDOW_BUCKETS)

    @property
    def evidence(self) -> float:
        """Log evidence of all calls that raises the alarm."""
        return -log((1.0 - _WINDOW_SHARE) * self.alpha)

    def detectable_shift(self, after_calls: int = 0) -> float:
        """Return the least change of the ratio found within `within_calls` in 95 of 100 cases.

        Args:
            after_calls: Calls before the change; they refine the reference where `samples` is
                small.
        """
        p = self.expected_ratio
        inverse = 1.0 / self.window_calls
        if self.samples is not None:
            p = (self.samples * p + 0.5) / (self.samples + 1)
            # Calibration inputs are independent, neighbouring calls are not.
            inverse += 1.0 / (self.samples * self.repeats + after_calls)
        return (self.bound + _POWER_95) * sqrt(p * (1.0 - p) * inverse * self.repeats)
