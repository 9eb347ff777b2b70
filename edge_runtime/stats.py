"""Counts and latencies of a cascade by source, cheap enough to be always on.

    stats = Stats()
    stats.record(Source.EDGE, total_s)
    stats.record(Source.EDGE_FALLBACK, total_s, deferred=1)
    stats.record_error("CloudDeadlineError")
    log.info(stats.snapshot().as_json())

Problems of the cloud never show in the figures of M_S. Each source has a histogram of its own, so
that waiting for a failing cloud makes `edge_fallback` slow, never `edge`; and the deferral ratio
counts the gate's decisions, whatever their outcome.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, exp, log
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.errors import SettingError

if TYPE_CHECKING:
    from edge_runtime.answer import Answer

LEAST_S: Final = 1e-6
"""Shorter times count as this long."""
GREATEST_S: Final = 100.0
"""Longer times share one bucket, which ends at the longest one."""
RESOLUTION: Final = 0.05
"""Growth from one bucket to the next, and greatest relative error of a quantile."""

_LOG_STEP: Final = log(1.0 + RESOLUTION)
_BUCKETS_A_NEPER: Final = 1.0 / _LOG_STEP
_LAST: Final = ceil(log(GREATEST_S / LEAST_S) / _LOG_STEP)
_MAX_KINDS: Final = 64
OTHER: Final = "other"
"""Kind of all errors beyond the first 64 kinds, e.g. if a caller counts by message."""


@dataclass(frozen=True)
class Latency:
    """Times of the calls with one source, in seconds.

    Attributes:
        count: Number of answers; those of one batch share their time.
        mean_s: Mean time.
        p50_s: Median, like the other quantiles exact to `RESOLUTION`.
        p90_s: 90th percentile.
        p99_s: 99th percentile.
        max_s: Longest time.
        histogram: (upper bound in seconds, count) of each non-empty bucket, in order; buckets are
            up to `RESOLUTION` wide. The last one's bound is `max_s` where that is over 100 s.
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
        answers: Number of answers.
        deferred: Number of answers to inputs that the gate deferred, whatever the outcome.
        deferral_ratio: Share of deferred inputs; None without answers.
        sources: Latencies by source, for sources with answers.
        errors: Number of the cloud's errors by kind.
    """

    answers: int
    deferred: int
    deferral_ratio: float | None
    sources: Mapping[str, Latency]
    errors: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        return dataclasses.asdict(self)

    def facts(self) -> dict[str, str]:
        """Return the figures as short texts, to be shown."""
        shown = {"answers": f"{self.answers:,}"}
        if self.deferral_ratio is not None:
            shown["deferred"] = f"{self.deferral_ratio:.1%}"
        for source, latency in self.sources.items():
            shown[source] = f"{latency.count:,}, {latency.p50_s * 1e3:.2f} ms (median)"
        return {**shown, **{kind: f"{count:,}" for kind, count in self.errors.items()}}

    def as_json(self) -> str:
        """Return one line of JSON for a log, without NaN or infinities."""
        return json.dumps(self.as_dict(), sort_keys=True, allow_nan=False)


class Stats:
    """Counts answers and errors, with constant memory; safe to share between threads.

    A histogram has buckets from 1 us to 100 s, each 5 % longer than the one before (like HDR
    histograms and Prometheus' native ones), about 3 KB per source.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start()

    def record(self, source: str, total_s: float, count: int = 1, *, deferred: int = 0) -> None:
        """Count answers of one call.

        Args:
            source: Source of the answers, e.g. `Source.EDGE`.
            total_s: Time of the whole call, in seconds; anything else raises a `SettingError`.
            count: Number of answers.
            deferred: Number of them that the gate deferred, at most `count`.
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
                # A plain str, as an enumeration would show its class in a log.
                histogram = self._histograms[str(source)] = _Histogram()
            histogram.counts[bucket] += count
            histogram.sum_s += total_s * count
            if total_s > histogram.max_s:  # noqa: PLR1730 - a call of max() costs more than this
                histogram.max_s = total_s

    def record_answers(self, answers: Iterable[Answer], total_s: float) -> None:
        """Count the answers of one call by their sources."""
        by_source: dict[str, list[bool]] = {}
        for answer in answers:
            by_source.setdefault(answer.source, []).append(answer.deferred)
        for source, flags in by_source.items():
            self.record(source, total_s, len(flags), deferred=sum(flags))

    def record_error(self, kind: str) -> None:
        """Count an error of the cloud, e.g. under the name of its class."""
        with self._lock:
            if kind not in self._errors and len(self._errors) >= _MAX_KINDS:
                kind = OTHER
            self._errors[kind] = self._errors.get(kind, 0) + 1

    def snapshot(self) -> Snapshot:
        """Return a consistent set of the current figures."""
        with self._lock:
            copies = {source: h.copy() for source, h in self._histograms.items()}
            deferred, errors = self._deferred, dict(self._errors)
        # An empty batch leaves an empty histogram.
        sources = {source: h.latency() for source, h in copies.items() if any(h.counts)}
        answers = sum(latency.count for latency in sources.values())
        ratio = deferred / answers if answers else None
        return Snapshot(answers, deferred, ratio, sources, errors)

    def reset(self) -> None:
        """Clear all counts."""
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
        """Return the time at a relative position in a bucket."""
        if bucket == _LAST:
            return GREATEST_S * exp(log(self.max_s / GREATEST_S) * within)
        return LEAST_S * exp((bucket + within) * _LOG_STEP)


def _outer_bucket(total_s: float) -> int:
    if 0.0 <= total_s <= LEAST_S:
        return 0
    if GREATEST_S <= total_s < float("inf"):
        return _LAST
    raise SettingError(f"expected a time in seconds, at least 0, got {total_s}")
