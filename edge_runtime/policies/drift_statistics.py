"""The two tests behind the drift alarm, and the bound for a given false-alarm rate.

`signed_root` compares a window of calls with the calls before it, `log_evidence` all calls with the
calibration data. Counts may be fractions: each of several similar calls in a row counts in part.

References: Siegmund (1985), Sequential Analysis, and Siegmund and Venkatraman (1995), Annals of
Statistics 23:255-271 (passages of moving sums looked at in steps); Guépié, Fillatre and Nikiforov
(2012), Sequential Analysis 31:528-547 (moving sums find a change within a given delay); Lai
(1998), IEEE Transactions on Information Theory 44:2917-2929 (windows of likelihood ratios); Howard,
Ramdas, McAuliffe and Sekhon (2021), Annals of Statistics 49:1055-1080 (mixture martingales).
"""

from __future__ import annotations

from math import copysign, erfc, exp, lgamma, log, pi, sqrt
from typing import NamedTuple

_SQRT_2 = sqrt(2.0)
_HIGHEST = 12.0  # standard deviations: a rate of 1e-30, below any that is requested
_HALVINGS = 60


class Counts(NamedTuple):
    """Deferred calls and all calls of a stretch; fractions are allowed."""

    deferred: float
    calls: float

    @property
    def ratio(self) -> float:
        """The deferral ratio; the stretch must not be empty."""
        return self.deferred / self.calls

    def plus(self, other: Counts) -> Counts:
        """Return the counts of two stretches together."""
        return Counts(self.deferred + other.deferred, self.calls + other.calls)

    def divided_by(self, divisor: float) -> Counts:
        """Return the counts with each call counted in part."""
        return Counts(self.deferred / divisor, self.calls / divisor)


def signed_root(window: Counts, reference: Counts, *, is_exact: bool = False) -> float:
    """Return the distance of the window's ratio from the reference's, in standard deviations.

    The signed root of twice the log-likelihood ratio of "two ratios" over "one ratio", with half a
    call as continuity correction. Unlike the plain z it stays near normal for ratios near 0 and 1.

    Args:
        window: The calls to be tested.
        reference: The calls for comparison.
        is_exact: Whether the reference's ratio, in (0, 1), is known exactly.

    Returns:
        Positive where the window defers more; about standard normal where nothing has changed.
    """
    pooled = reference.ratio if is_exact else window.plus(reference).ratio
    d = _corrected(window, pooled)
    deviance = _divergence(d, window.calls, pooled)
    if not is_exact:
        # The half call moves to the other side, so that the pooled ratio is unchanged.
        k = reference.deferred + window.deferred - d
        deviance += _divergence(k, reference.calls, pooled)
    return copysign(sqrt(max(2.0 * deviance, 0.0)), d - window.calls * pooled)


def _corrected(window: Counts, ratio: float) -> float:
    """Return the deferred calls moved half a call towards the number that the ratio predicts."""
    expected = window.calls * ratio
    distance = window.deferred - expected
    return expected + copysign(max(abs(distance) - 0.5, 0.0), distance)


def _divergence(deferred: float, calls: float, ratio: float) -> float:
    """Return calls * KL(deferred / calls || ratio) in nats; 0 log 0 = 0."""
    kept = calls - deferred
    total = 0.0
    if deferred > 0.0:
        total += deferred * log(deferred / (calls * ratio))
    if kept > 0.0:
        total += kept * log(kept / (calls * (1.0 - ratio)))
    return total


def log_evidence(
    seen: Counts, calibration: Counts, concentration: float, *, is_exact: bool = False
) -> float:
    """Return the log likelihood ratio of "another ratio than the calibration's" over "the same".

    The numerator draws a new ratio around the calibration's, the denominator predicts the calls
    from the calibration data (Pólya's urn). If calls and calibration data are exchangeable, this is
    the log of a martingale that starts at 1, so that it ever exceeds log(1 / alpha) with
    probability at most alpha (Ville), over calibration data and stream together.

    Args:
        seen: All calls since the start.
        calibration: Deferred inputs and all inputs, both with the prior's share, so that neither
            deferred nor kept is 0.
        concentration: Weight of the numerator's Beta in calls; its standard deviation is
            sqrt(ratio * (1 - ratio) / (concentration + 1)).
        is_exact: Whether the calibration's ratio, in (0, 1), is known exactly.
    """
    p, kept = calibration.ratio, calibration.calls - calibration.deferred
    drawn = _log_urn(seen, concentration * p, concentration * (1.0 - p))
    if is_exact:
        return drawn - seen.deferred * log(p) - (seen.calls - seen.deferred) * log(1.0 - p)
    return drawn - _log_urn(seen, calibration.deferred, kept)


def _log_urn(seen: Counts, a: float, b: float) -> float:
    """Return the log probability of a sequence with these counts under a Beta(a, b) ratio."""
    d, kept = seen.deferred, seen.calls - seen.deferred
    return _log_beta(a + d, b + kept) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def false_alarm_probability(bound: float, steps: float, window: float) -> float:
    """Return the probability that a moving mean of noise leaves (-bound, bound).

    Args:
        bound: Bound in standard deviations, at least 1.
        steps: Number of evaluations.
        window: Number of steps in the mean.

    Returns:
        Siegmund's approximation for both sides together; above 1 where alarms are the rule.
    """
    density = exp(-bound * bound / 2.0) / sqrt(2.0 * pi)
    tail = erfc(bound / _SQRT_2) / 2.0
    passages = steps / window * bound * density * _overshoot(bound * sqrt(2.0 / window))
    return 2.0 * (tail + passages)


def _overshoot(x: float) -> float:
    """Return nu(x), the factor by which testing in steps lowers the rate of passages (Siegmund)."""
    half = x / 2.0
    below = 1.0 - erfc(half / _SQRT_2) / 2.0
    density = exp(-half * half / 2.0) / sqrt(2.0 * pi)
    return (2.0 / x) * (below - 0.5) / (half * below + density)


def bound_for(probability: float, steps: float, window: float) -> float:
    """Return the least bound whose `false_alarm_probability` is at most the given one."""
    low, high = 1.0, _HIGHEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if false_alarm_probability(middle, steps, window) > probability:
            low = middle
        else:
            high = middle
    return high
