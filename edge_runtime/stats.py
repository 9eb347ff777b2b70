"""Counts and latencies of a cascade, by who answered: cheap enough to be always on.

    stats = Stats()
    stats.record(Source.EDGE, total_s)
    stats.record(Source.EDGE_FALLBACK, total_s, deferred=1)
    stats.record_error("CloudDeadlineError")
    log.info(stats.snapshot().as_json())

What happens to the cloud never shows in the figures of M_S. A deferred call keeps its source and
with it a histogram of its own, so that waiting for a cloud that fails makes `edge_fallback` slow,
never `edge`; and the deferral ratio counts what the gate asked for, whatever came of it.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Any, Final

from edge_runtime.errors import SettingError

LEAST_S: Final = 1e-6
"""Shorter times count as this long."""
GREATEST_S: Final = 100.0
"""Longer times fall into one bucket, which ends at the longest seen."""
RESOLUTION: Final = 0.05
"""Each bucket is so much longer than the one before; a quantile is at most so far off."""

_LOG_STEP: Final = log(1.0 + RESOLUTION)
_BUCKETS_A_NEPER: Final = 1.0 / _LOG_STEP
_LAST: Final = ceil(log(GREATEST_S / LEAST_S) / _LOG_STEP)
_MOST_KINDS: Final = 64
OTHER: Final = "other"
"""Kind of the errors that are counted after 64 kinds; somebody counts by message."""


@dataclass(frozen=True)
class Latency:
    """Times of the calls with one source, in seconds.

    Attributes:
        count: Answers; those of one batch share their time.
        mean_s: Their mean.
        p50_s: Half of them took at most so long, within `RESOLUTION`; likewise the others.
        p90_s: 90 %.
        p99_s: 99 %.
        max_s: The longest.
        histogram: (upper bound in seconds, count) of each bucket that holds any, in order; buckets
            are up to `RESOLUTION` wide. The last one's bound is `max_s` where it is over 100 s.
    """

    count: int
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    histogram: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Snapshot:
    """The statistics at one moment.

    Attributes:
        answers: All answers.
        deferred: Of these, how many the gate asked M_L for, whatever came of it.
        deferral_ratio: Their share; None where there are no answers.
        sources: By source, only those that have answered.
        errors: How often each kind of error of the cloud came.
    """

    answers: int
    deferred: int
    deferral_ratio: float | None
    sources: Mapping[str, Latency]
    errors: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dictionaries, lists and numbers."""
        return dataclasses.asdict(self)

    def as_json(self) -> str:
        """Return it as one line for a log; it holds no NaN and nothing infinite."""
        return json.dumps(self.as_dict(), sort_keys=True, allow_nan=False)


class Stats:
    """Counts answers; constant memory, safe to share between threads.

    A histogram has buckets from 1 us to 100 s, each 5 % longer than the one before (as HDR
    histograms and Prometheus' native ones do), about 3 KB a source.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()

    def record(self, source: str, total_s: float, count: int = 1, *, deferred: int = 0) -> None:
        """Count answers of one call.

        Args:
            source: Who gave them, e.g. `Source.EDGE`.
            total_s: How long the whole call took, in seconds.
            count: How many there are.
            deferred: How many of them the gate asked M_L for.

        Raises:
            SettingError: The time is not a number of seconds, or more are deferred than there are.
        """
        if LEAST_S < total_s < GREATEST_S:
            bucket = int(log(total_s / LEAST_S) * _BUCKETS_A_NEPER)
        else:
            bucket = _outer_bucket(total_s)
        if not 0 <= deferred <= count:
            raise SettingError(f"expected 0 <= deferred <= count, got {deferred} and {count}")
        with self._lock:
            self._deferred += deferred
            histogram = self._histograms.get(source)
            if histogram is None:
                # As a plain text: a StrEnum would show its class in a log.
                histogram = self._histograms[str(source)] = _Histogram()
            histogram.counts[bucket] += count
            histogram.sum_s += total_s * count
            if total_s > histogram.max_s:  # noqa: PLR1730 - a call of max() costs more than this
                histogram.max_s = total_s

    def record_error(self, kind: str) -> None:
        """Count an error of the cloud, e.g. under the name of its class."""
        with self._lock:
            if kind not in self._errors and len(self._errors) >= _MOST_KINDS:
                kind = OTHER
            self._errors[kind] = self._errors.get(kind, 0) + 1

    def snapshot(self) -> Snapshot:
        """Return the figures of now; they belong together."""
        with self._lock:
            copies = {source: h.copy() for source, h in self._histograms.items()}
            deferred, errors = self._deferred, dict(self._errors)
        # A call of an empty batch counts nothing.
        sources = {source: h.latency() for source, h in copies.items() if any(h.counts)}
        answers = sum(latency.count for latency in sources.values())
        ratio = deferred / answers if answers else None
        return Snapshot(answers, deferred, ratio, sources, errors)

    def reset(self) -> None:
        """Start from nothing."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        self._deferred = 0
        self._histograms: dict[str, _Histogram] = {}
        self._errors: dict[str, int] = {}


class _Histogram:
    __slots__ = ("counts", "max_s", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (_LAST + 1)
        self.sum_s = 0.0
        self.max_s = 0.0

    def copy(self) -> _Histogram:
        copied = _Histogram()
        copied.counts, copied.sum_s, copied.max_s = self.counts.copy(), self.sum_s, self.max_s
        return copied

    def latency(self) -> Latency:
        count = sum(self.counts)
        p50, p90, p99 = (self._quantile(q * count) for q in (0.5, 0.9, 0.99))
        return Latency(count, self.sum_s / count, p50, p90, p99, self.max_s, self._filled())

    def _filled(self) -> tuple[tuple[float, int], ...]:
        filled = [(bucket, count) for bucket, count in enumerate(self.counts) if count]
        return tuple((self._time(bucket, 1.0), count) for bucket, count in filled)

    def _quantile(self, rank: float) -> float:
        """Return the time at a rank, interpolated on the log scale in the bucket that holds it."""
        below = 0
        for bucket, count in enumerate(self.counts):
            if count and below + count >= rank:
                return min(self._time(bucket, (rank - below) / count), self.max_s)
            below += count
        return self.max_s

    def _time(self, bucket: int, within: float) -> float:
        """Return the time at a share of a bucket."""
        if bucket == _LAST:
            return GREATEST_S * exp(log(self.max_s / GREATEST_S) * within)
        return LEAST_S * exp((bucket + within) * _LOG_STEP)


def _outer_bucket(total_s: float) -> int:
    if 0.0 <= total_s <= LEAST_S:
        return 0
    if GREATEST_S <= total_s < float("inf"):
        return _LAST
    raise SettingError(f"expected a time in seconds, at least 0, got {total_s}")
