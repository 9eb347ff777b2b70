"""An alarm for inputs that differ from those the threshold was calibrated on.

    alarm = DriftAlarm.from_calibration(bundle.metadata)
    if report := alarm.observe(deferred, total):
        log.warning(report.text)

It sees only the gate's decisions: whether M_L then answered does not matter. Two tests share the
stated false-alarm probability.

For sudden changes, a moving window of calls is compared with everything before it, calibration data
included. Where a change must be found within a given number of calls, the best CUSUM test of that
kind reduces to this (Guépié, Fillatre and Nikiforov 2012), and no test is much better (Tartakovsky
et al. 2021, arXiv:2102.01310). False alarms have a lower limit: any test that finds 0.30 -> 0.35 as
well as 0.30 -> 0.25 within 2,000 calls in 95 of 100 cases gives one in about 0.6 % of the months of
10,000 calls and in 6 % of those of 100,000 (Neyman and Pearson). For fewer, allow more calls:
`alpha=0.01, horizon_calls=100_000, within_calls=3_000` finds the same shifts.

For slow changes, which the moving window's reference would follow, all calls since the start are
compared with the calibration data. That test is an e-process (Ramdas, Grünwald, Vovk and Shafer
2023, Statistical Science 38:576-601): it may be evaluated forever, and its probability is not per
month.

The calibration's ratio is itself an estimate. Both tests treat calls and calibration data as drawn
from one distribution, so the false-alarm probability covers both; few data make the alarm less
sensitive, not more nervous. A change early in the stream is found less reliably than a late one,
because only the calibration data are there for comparison: see `DriftSettings.detectable_shift`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.contract import GateMetadata
from edge_runtime.errors import BundleError, SettingError
from edge_runtime.policies import drift_statistics as tests
from edge_runtime.policies.drift_settings import WINDOW_BUCKETS, DriftSettings
from edge_runtime.policies.drift_statistics import Counts

if TYPE_CHECKING:
    from typing_extensions import Self

_TYPICAL_SHIFT: Final = 0.05  # the test for slow changes is most sensitive to this one

__all__ = ["DriftAlarm", "DriftReport", "DriftSettings", "DriftState"]


@dataclass(frozen=True)
class DriftReport:
    """One alarm.

    Attributes:
        observed_ratio: Deferral ratio of the calls that raised the alarm.
        observed_calls: Number of those calls.
        reference_ratio: The ratio for comparison: the calibration's, refined by the calls before.
        expected_ratio: The calibration's own ratio.
        samples: Number of calibration inputs, None where the ratio is exact.
        since_call: Approximate number of the first call after the change; the first call is 0.
        at_call: Number of calls before the alarm was raised.
        is_slow: True where the test for slow changes raised it.
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
    """The current state of a `DriftAlarm`.

    Attributes:
        alarmed: Whether the alarm was raised and not reset since.
        observed_ratio: Deferral ratio of the last `window_calls` tested calls (of all while there
            are fewer); None before the first test.
        expected_ratio: The calibration's ratio.
        since_call: Approximate first call after the change; None without an alarm.
        calls: Calls since the start or the last reset.
    """

    alarmed: bool
    observed_ratio: float | None
    expected_ratio: float
    since_call: int | None
    calls: int


class DriftAlarm:
    """Compares the deferral ratio of a stream of calls with the calibration's.

    Deterministic, with constant memory, and safe to share between threads. After an alarm it stays
    silent until `reset`.
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
        """Build the alarm from a bundle's calibration record.

        Args:
            metadata: The gate's metadata.
            threshold: The threshold in force, e.g. `EdgeModel.threshold`; None is the bundle's.
            **settings: Further `DriftSettings`, e.g. `alpha`.

        Raises:
            SettingError: The threshold was not calibrated, or is not the one in force; or a
                setting is out of range.
            BundleError: The calibration record does not come from this toolkit.
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
        """The alarm that was raised, until `reset`."""
        return self._report

    @property
    def state(self) -> DriftState:
        """The current state."""
        with self._lock:
            return DriftState(
                alarmed=self._report is not None,
                observed_ratio=self._recent.ratio if self._window else None,
                expected_ratio=self.settings.expected_ratio,
                since_call=self._report.since_call if self._report else None,
                calls=self._calls,
            )

    def observe(self, deferred: int, total: int) -> DriftReport | None:
        """Add the gate's decisions on some calls; return the alarm once, when a test raises it.

        Args:
            deferred: Number of deferred calls; more than `total` raise a `SettingError`.
            total: Number of calls. If a batch spans several tests, its deferred calls are taken as
                spread evenly.
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
        """Start over: drop the alarm and all calls, and expect the calibration's ratio again."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        self._calls = 0
        self._filled = self._filled_deferred = 0  # calls in the current bucket
        self._tested = 0  # calls in full buckets
        self._window: deque[Counts] = deque(maxlen=WINDOW_BUCKETS)
        self._recent = Counts(0, 0)  # the sum of the window
        self._before = Counts(0, 0)  # the stream before the window
        self._report: DriftReport | None = None

    def _split(self, deferred: int, total: int) -> DriftReport | None:
        """Divide a batch that fills at least one bucket among the buckets; keep the rest."""
        filled, filled_deferred = self._filled - total, self._filled_deferred - deferred
        while filled + total >= self._bucket_calls:
            taken = self._bucket_calls - filled
            share = deferred * taken // total if total else 0
            report = self._test(Counts(filled_deferred + share, self._bucket_calls))
            total, deferred, filled, filled_deferred = total - taken, deferred - share, 0, 0
            if report is not None:
                self._report = report
                break
        self._filled, self._filled_deferred = filled + total, filled_deferred + deferred
        return self._report

    def _test(self, bucket: Counts) -> DriftReport | None:
        window = self._window
        if len(window) == WINDOW_BUCKETS:
            oldest, recent = window[0], self._recent
            self._before = self._before.plus(oldest)
            self._recent = Counts(recent.deferred - oldest.deferred, recent.calls - oldest.calls)
        window.append(bucket)
        self._recent = self._recent.plus(bucket)
        self._tested += self._bucket_calls
        everything = self._before.plus(self._recent)
        return self._test_sudden(self._recent) or self._test_slow(everything)

    def _test_sudden(self, seen: Counts) -> DriftReport | None:
        reference = self._reference()
        missing = self.settings.window_calls - seen.calls
        # Until the window is full, expected calls fill it up: they only make the test calmer.
        whole = Counts(seen.deferred + missing * reference.ratio, seen.calls + missing)
        if abs(self._distance(whole, reference)) < self.settings.bound:
            return None
        # The change lies where the calls after it differ most from the reference.
        stretches = [Counts(0, 0)]
        for bucket in reversed(self._window):
            stretches.append(stretches[-1].plus(bucket))
        changed = max(stretches[1:], key=lambda last: abs(self._distance(last, reference)))
        return self._alarm(changed, reference.ratio, is_slow=False)

    def _test_slow(self, seen: Counts) -> DriftReport | None:
        settings, known = self.settings, self._calibration
        p = known.ratio
        weight = p * (1.0 - p) / _TYPICAL_SHIFT**2
        effective = seen.divided_by(settings.repeats)
        evidence = tests.log_evidence(effective, known, weight, is_exact=settings.samples is None)
        if evidence < settings.evidence:
            return None
        return self._alarm(seen, p, is_slow=True)

    def _reference(self) -> Counts:
        """Return the reference of the window, as a number of independent calls."""
        if self.settings.samples is None:
            return self._calibration
        return self._calibration.plus(self._before.divided_by(self.settings.repeats))

    def _distance(self, window: Counts, reference: Counts) -> float:
        effective = window.divided_by(self.settings.repeats)
        return tests.signed_root(effective, reference, is_exact=self.settings.samples is None)

    def _alarm(self, changed: Counts, reference: float, *, is_slow: bool) -> DriftReport:
        return DriftReport(
            observed_ratio=changed.ratio,
            observed_calls=int(changed.calls),
            reference_ratio=reference,
            expected_ratio=self.settings.expected_ratio,
            samples=self.settings.samples,
            since_call=self._tested - int(changed.calls),
            at_call=self._tested,
            is_slow=is_slow,
        )


def _calibration(settings: DriftSettings) -> Counts:
    """Return the calibration data with half a deferred and half a kept input (Jeffreys)."""
    if settings.samples is None:
        return Counts(settings.expected_ratio, 1)
    return Counts(settings.expected_ratio * settings.samples + 0.5, settings.samples + 1)


def _read(record: dict[str, Any]) -> tuple[float, int]:
    """Return the deferral ratio on the calibration data, and the number of its inputs."""
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
