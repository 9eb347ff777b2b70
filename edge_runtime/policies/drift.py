"""An alarm for inputs that are no longer what the threshold was calibrated on.

    alarm = DriftAlarm.from_calibration(bundle.metadata)
    if report := alarm.observe(deferred, total):
        log.warning(report.text)

The gate's decisions are all it sees: whether M_L then answered does not matter. Two tests share the
stated false-alarm probability.

A moving window of calls is compared with all that came before it, calibration data included, for
sudden changes. Where a change must be found within a given number of calls this is what the best
CUSUM test of that kind comes down to (Guépié, Fillatre and Nikiforov 2012), and nearly as good as
any (Tartakovsky et al. 2021, arXiv:2102.01310). False alarms have a floor: any test that finds
0.30 -> 0.35 as well as 0.30 -> 0.25 within 2,000 calls in 95 of 100 cases gives one in about 0.6 %
of the months of 10,000 calls and in 6 % of those of 100,000 (Neyman and Pearson). Who wants fewer
gives it more calls: `alpha=0.01, horizon_calls=100_000, within_calls=3_000` finds the same shifts.

All calls since the start are compared with the calibration data, for slow changes, which the moving
window's reference would follow. That test is an e-process (Ramdas, Grünwald, Vovk and Shafer 2023,
Statistical Science 38:576-601): it may be looked at for ever and its probability is not per month.

The calibration's ratio is itself an estimate. Both tests take the calls and the calibration data as
drawn alike, so that the false-alarm probability is over both; few data make the alarm less
sensitive, not more nervous. A change early in the stream is then told less well than a late one,
because only the calibration data are there to compare with: see `DriftSettings.detectable_shift`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Self

from edge_runtime.contract import GateMetadata
from edge_runtime.errors import BundleError, SettingError
from edge_runtime.policies import drift_statistics as tests
from edge_runtime.policies.drift_settings import WINDOW_BUCKETS, DriftSettings
from edge_runtime.policies.drift_statistics import Counts

_TYPICAL_SHIFT: Final = 0.05  # what the test of all calls is most sensitive to

__all__ = ["DriftAlarm", "DriftReport", "DriftSettings", "DriftState"]


@dataclass(frozen=True)
class DriftReport:
    """What an alarm says.

    Attributes:
        observed_ratio: Deferral ratio of the calls that gave the alarm.
        observed_calls: How many calls those are.
        reference_ratio: The ratio they were compared with: the calibration's, sharpened by the
            calls before.
        expected_ratio: The calibration's own.
        samples: Inputs that it was found on, None where it is exact.
        since_call: About the number of the first call after the change; the first call is 0.
        at_call: After how many calls the alarm was given.
        is_slow: Whether it was the test of all calls since the start that gave it.
    """

    observed_ratio: float
    observed_calls: int
    reference_ratio: float
    expected_ratio: float
    samples: int | None
    since_call: int
    at_call: int
    is_slow: bool

    @property
    def text(self) -> str:
        """One sentence: what happened and what to do."""
        of = "" if self.samples is None else f" of {self.samples} inputs"
        before = "" if self.is_slow else f", and {self.reference_ratio:.3f} is what came before"
        return (
            f"the gate deferred {self.observed_ratio:.3f} of the last {self.observed_calls} calls, "
            f"calibrated for {self.expected_ratio:.3f}{of}{before}: the inputs have changed since "
            f"about call {self.since_call}; look at them, and if they are here to stay, calibrate "
            "on new ones (python -m export retune --bundle BUNDLE --calibrate DATA and its goal)"
        )


@dataclass(frozen=True)
class DriftState:
    """Where an alarm stands.

    Attributes:
        alarmed: Whether it has been given and not been reset.
        observed_ratio: Deferral ratio of the last `window_calls` calls that were looked at (of all
            while there are fewer); None before the first look.
        expected_ratio: The calibration's.
        since_call: About the first call after the change; None while there is no alarm.
        calls: Calls since the start or the last reset.
    """

    alarmed: bool
    observed_ratio: float | None
    expected_ratio: float
    since_call: int | None
    calls: int


class DriftAlarm:
    """Compares the deferral ratio of a stream of calls with the calibration's.

    Deterministic, in constant memory, and safe to share between threads: it has a lock of its own.
    After an alarm it stays silent until `reset`.

    Args:
        settings: What to expect.

    Attributes:
        settings: The same.
    """

    def __init__(self, settings: DriftSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._bucket_calls = settings.bucket_calls
        self._calibration = _calibration(settings)
        self._start()

    @classmethod
    def from_calibration(
        cls, metadata: GateMetadata, *, threshold: float | None = None, **settings: Any
    ) -> Self:
        """Build it from what a bundle says of its calibration.

        Args:
            metadata: The gate's metadata.
            threshold: The threshold in force, e.g. `EdgeModel.threshold`; None is the baked one.
            **settings: Further `DriftSettings`, e.g. `alpha`.

        Raises:
            SettingError: The threshold was not calibrated, or is not the one in force; or a
                setting is out of range.
            BundleError: The calibration record is not one of this toolkit.
        """
        record = metadata.calibration
        if record is None:
            raise SettingError(
                "expected a calibrated threshold to watch for drift, this bundle's was set by "
                "hand: choose it on data (python -m export retune --bundle BUNDLE --calibrate DATA "
                "--target-deferral 0.3)"
            )
        if threshold is not None and threshold != metadata.threshold:
            raise SettingError(
                f"expected the calibrated threshold {metadata.threshold:.6g} to watch for drift, "
                f"got {threshold:.6g} in its place: what it defers is not known; leave the "
                "threshold out, or put it into the bundle with python -m export retune"
            )
        ratio, samples = _read(record)
        return cls(DriftSettings(expected_ratio=ratio, samples=samples, **settings))

    @property
    def report(self) -> DriftReport | None:
        """The alarm that was given, until `reset`."""
        return self._report

    @property
    def state(self) -> DriftState:
        """Where it stands now."""
        with self._lock:
            return DriftState(
                alarmed=self._report is not None,
                observed_ratio=self._recent.ratio if self._window else None,
                expected_ratio=self.settings.expected_ratio,
                since_call=self._report.since_call if self._report else None,
                calls=self._calls,
            )

    def observe(self, deferred: int, total: int) -> DriftReport | None:
        """Take the gate's decisions on some calls.

        Args:
            deferred: How many of them it deferred.
            total: How many there were. Of a batch that reaches over a look at the tests, the
                deferred ones are taken as spread evenly.

        Returns:
            The alarm, once, at the look that gives it; else None.

        Raises:
            SettingError: More were deferred than there were, or a number is negative.
        """
        if not 0 <= deferred <= total:
            raise SettingError(
                f"expected 0 <= deferred <= total, got {deferred} and {total}: count the gate's "
                "decisions, not the answers"
            )
        with self._lock:
            self._calls += total
            self._filled += total
            self._filled_deferred += deferred
            if self._filled < self._bucket_calls or self._report is not None:
                return None
            return self._split(deferred, total)

    def reset(self) -> None:
        """Start over: forget the alarm and every call, and expect the calibration's ratio again."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        self._calls = 0
        self._filled = self._filled_deferred = 0  # of the bucket that is being filled
        self._looked = 0  # calls in buckets that are full
        self._window: deque[Counts] = deque(maxlen=WINDOW_BUCKETS)
        self._recent = Counts(0, 0)  # the sum of the window
        self._before = Counts(0, 0)  # the stream before the window
        self._report: DriftReport | None = None

    def _split(self, deferred: int, total: int) -> DriftReport | None:
        """Cut the batch that filled the bucket into what fills each and what is left over."""
        filled, filled_deferred = self._filled - total, self._filled_deferred - deferred
        while filled + total >= self._bucket_calls:
            taken = self._bucket_calls - filled
            share = deferred * taken // total if total else 0
            report = self._look(Counts(filled_deferred + share, self._bucket_calls))
            total, deferred, filled, filled_deferred = total - taken, deferred - share, 0, 0
            if report is not None:
                self._report = report
                break
        self._filled, self._filled_deferred = filled + total, filled_deferred + deferred
        return self._report

    def _look(self, bucket: Counts) -> DriftReport | None:
        window = self._window
        if len(window) == WINDOW_BUCKETS:
            oldest, recent = window[0], self._recent
            self._before = _sum(self._before, oldest)
            self._recent = Counts(recent.deferred - oldest.deferred, recent.calls - oldest.calls)
        window.append(bucket)
        self._recent = _sum(self._recent, bucket)
        self._looked += self._bucket_calls
        return self._sudden(self._recent) or self._slow(_sum(self._before, self._recent))

    def _sudden(self, seen: Counts) -> DriftReport | None:
        reference = self._reference()
        missing = self.settings.window_calls - seen.calls
        # Until the window is full, calls as expected stand for the missing ones: they only calm it.
        whole = Counts(seen.deferred + missing * reference.ratio, seen.calls + missing)
        if abs(self._distance(whole, reference)) < self.settings.bound:
            return None
        # The change is where what came after it stands out most.
        stretches = [Counts(0, 0)]
        for bucket in reversed(self._window):
            stretches.append(_sum(stretches[-1], bucket))
        changed = max(stretches[1:], key=lambda last: abs(self._distance(last, reference)))
        return self._alarm(changed, reference.ratio, is_slow=False)

    def _slow(self, seen: Counts) -> DriftReport | None:
        settings, known = self.settings, self._calibration
        p = known.ratio
        weight = p * (1.0 - p) / _TYPICAL_SHIFT**2
        effective = _divided(seen, settings.repeats)
        evidence = (
            tests.log_evidence_known(effective, p, weight)
            if settings.samples is None
            else tests.log_evidence(effective, known, weight)
        )
        if evidence < settings.evidence:
            return None
        return self._alarm(seen, p, is_slow=True)

    def _reference(self) -> Counts:
        """What the window is compared with, in calls that are independent."""
        if self.settings.samples is None:
            return self._calibration
        return _sum(self._calibration, _divided(self._before, self.settings.repeats))

    def _distance(self, window: Counts, reference: Counts) -> float:
        effective = _divided(window, self.settings.repeats)
        if self.settings.samples is None:
            return tests.signed_root_known(effective, reference.ratio)
        return tests.signed_root(effective, reference)

    def _alarm(self, changed: Counts, reference: float, *, is_slow: bool) -> DriftReport:
        return DriftReport(
            observed_ratio=changed.ratio,
            observed_calls=int(changed.calls),
            reference_ratio=reference,
            expected_ratio=self.settings.expected_ratio,
            samples=self.settings.samples,
            since_call=self._looked - int(changed.calls),
            at_call=self._looked,
            is_slow=is_slow,
        )


def _calibration(settings: DriftSettings) -> Counts:
    """Return the calibration data with half a deferred and half a kept input (Jeffreys)."""
    if settings.samples is None:
        return Counts(settings.expected_ratio, 1)
    return Counts(settings.expected_ratio * settings.samples + 0.5, settings.samples + 1)


def _read(record: dict[str, Any]) -> tuple[float, int]:
    """Return the deferral ratio on the calibration data, and how many those were."""
    ratio, samples = record.get("achieved"), record.get("n")
    if (
        isinstance(ratio, bool)
        or not isinstance(ratio, (int, float))
        or not 0.0 <= ratio <= 1.0
        or type(samples) is not int
        or samples < 1
    ):
        raise BundleError(
            "expected achieved in [0, 1] and n >= 1 in the bundle's calibration record, got "
            f"{str(ratio)[:40]} and {str(samples)[:40]}: calibrate it with python -m export retune"
        )
    return float(ratio), samples


def _sum(a: Counts, b: Counts) -> Counts:
    return Counts(a.deferred + b.deferred, a.calls + b.calls)


def _divided(counts: Counts, by: float) -> Counts:
    return Counts(counts.deferred / by, counts.calls / by)
