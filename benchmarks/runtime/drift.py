"""Measures the drift alarm's rate of false alarms, and the shifts that it misses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.figures import Figure
from edge_runtime.policies.drift import DriftAlarm, DriftSettings

_RATIO = 0.30
_UP, _DOWN = 0.35, 0.25
_DEFAULT = DriftSettings(expected_ratio=_RATIO)
_QUIET = DriftSettings(expected_ratio=_RATIO, alpha=0.01, horizon_calls=100_000, within_calls=3_000)
_SAMPLES = 2_000
_LATE = 50_000  # calls
_QUIET_FACTOR = 5  # times the months: 1 % of 1,000 is 10 alarms, which chance can turn into 17
_MISSED_PERCENT = 5.0


@dataclass(frozen=True)
class _Shift:
    """A change of the deferral ratio that the alarm should find."""

    to: float
    after_calls: int
    settings: DriftSettings = _DEFAULT


def measure_drift(seed: int, months: int = 1_000, shifts: int = 1_000) -> list[Figure]:
    """Simulate the alarm over months without a change, and over changes of five points.

    If the calibration's ratio is not exact, the calibration data are drawn anew for every month
    and every shift. The alarm gets calls in the groups that it evaluates, which has the same result
    as one at a time.

    Args:
        seed: Seed of the draws.
        months: Months without a change; five times as many if false alarms are rare.
        shifts: Changes of each kind.

    Returns:
        False alarms and missed shifts in percent, with their limits.
    """
    draws = np.random.default_rng(seed)
    sampled = replace(_DEFAULT, samples=_SAMPLES)
    return [
        _false_alarms(draws, _DEFAULT, months),
        _false_alarms(draws, sampled, months),
        _false_alarms(draws, _QUIET, _QUIET_FACTOR * months),
        *(
            _missed(draws, shift, shifts)
            for shift in (
                _Shift(_UP, 0),
                _Shift(_DOWN, 0),
                _Shift(_UP, _LATE),
                _Shift(_DOWN, _LATE),
                _Shift(_UP, _LATE, sampled),
                _Shift(_UP, 0, _QUIET),
            )
        ),
    ]


def _false_alarms(draws: np.random.Generator, settings: DriftSettings, months: int) -> Figure:
    alarms = sum(
        not _stays_quiet(_alarm(draws, settings), draws, _RATIO, settings.horizon_calls)
        for _ in range(months)
    )
    return Figure(
        f"false alarms, {_calibrated(settings)}",
        100.0 * alarms / months,
        100.0 * settings.alpha,
        "%",
        f"{alarms} of {months} months of {settings.horizon_calls} calls",
    )


def _missed(draws: np.random.Generator, shift: _Shift, shifts: int) -> Figure:
    missed = sum(_is_missed(draws, shift) for _ in range(shifts))
    within = shift.settings.within_calls
    return Figure(
        f"{_RATIO:.2f} -> {shift.to:.2f} missed, {_calibrated(shift.settings)}",
        100.0 * missed / shifts,
        _MISSED_PERCENT,
        "%",
        f"{shifts - missed} of {shifts} found within {within} calls, shift after "
        f"{shift.after_calls}",
    )


def _is_missed(draws: np.random.Generator, shift: _Shift) -> bool:
    alarm = _alarm(draws, shift.settings)
    # The change may come anywhere between two evaluations, except at the very start.
    bucket = shift.settings.bucket_calls
    before = shift.after_calls + (int(draws.integers(bucket)) if shift.after_calls else 0)
    while not _stays_quiet(alarm, draws, _RATIO, before):
        alarm = _alarm(draws, shift.settings)  # a false alarm is no discovery: start again
    return _stays_quiet(alarm, draws, shift.to, shift.settings.within_calls)


def _alarm(draws: np.random.Generator, settings: DriftSettings) -> DriftAlarm:
    if settings.samples is not None:
        deferred = int(draws.binomial(settings.samples, _RATIO))
        settings = replace(settings, expected_ratio=deferred / settings.samples)
    return DriftAlarm(settings)


def _stays_quiet(alarm: DriftAlarm, draws: np.random.Generator, ratio: float, calls: int) -> bool:
    """Feed the alarm this many calls; return whether it stays quiet."""
    bucket = alarm.settings.bucket_calls
    first = min(-alarm.state.calls % bucket, calls)
    groups = [first, *[bucket] * ((calls - first) // bucket), (calls - first) % bucket]
    deferred = draws.binomial(groups, ratio).tolist()
    return all(alarm.observe(d, total) is None for d, total in zip(deferred, groups, strict=True))


def _calibrated(settings: DriftSettings) -> str:
    size = "exact" if settings.samples is None else f"n = {settings.samples}"
    return f"{size}, {settings.alpha:.0%} a month"
