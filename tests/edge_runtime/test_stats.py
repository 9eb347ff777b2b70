"""Statistics count answers by source, and a failing cloud never makes M_S look slow."""

import json
import math
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.answer import Source
from edge_runtime.errors import SettingError
from edge_runtime.stats import OTHER, RESOLUTION, Stats

SECONDS = st.floats(1e-6, 99.0)


def test_nothing_recorded_is_nothing_and_not_nan():
    snapshot = Stats().snapshot()
    assert (snapshot.answers, snapshot.deferred, snapshot.deferral_ratio) == (0, 0, None)
    assert (snapshot.sources, snapshot.errors) == ({}, {})
    assert json.loads(snapshot.as_json())["deferral_ratio"] is None


def test_answers_are_counted_by_source():
    stats = Stats()
    stats.record(Source.EDGE, 1e-3, 7)
    stats.record(Source.CLOUD, 2e-2, 2, deferred=2)
    stats.record("edge_budget", 1e-3, deferred=1)
    snapshot = stats.snapshot()
    assert {name: s.count for name, s in snapshot.sources.items()} == {
        "edge": 7,
        "cloud": 2,
        "edge_budget": 1,
    }
    assert (snapshot.answers, snapshot.deferred, snapshot.deferral_ratio) == (10, 3, 0.3)


def test_a_failed_cloud_call_leaves_the_figures_of_the_small_model_alone():
    healthy, broken = Stats(), Stats()
    for stats in (healthy, broken):
        stats.record(Source.EDGE, 1e-3, 9)
    healthy.record(Source.CLOUD, 0.02, deferred=1)
    broken.record(Source.EDGE_FALLBACK, 0.5, deferred=1)
    broken.record_error("CloudDeadlineError")
    good, bad = healthy.snapshot(), broken.snapshot()
    assert good.sources["edge"] == bad.sources["edge"]
    assert good.deferral_ratio == bad.deferral_ratio == 0.1
    assert bad.errors == {"CloudDeadlineError": 1}


def test_errors_are_counted_by_kind():
    stats = Stats()
    for kind in ("CloudDeadlineError", "CloudRejectedError", "CloudDeadlineError"):
        stats.record_error(kind)
    assert stats.snapshot().errors == {"CloudDeadlineError": 2, "CloudRejectedError": 1}


def test_kinds_without_end_take_no_memory_without_end():
    stats = Stats()
    for i in range(1000):
        stats.record_error(f"message {i}")
    errors = stats.snapshot().errors
    assert len(errors) == 65
    assert errors[OTHER] == 1000 - 64


@given(times=st.lists(SECONDS, min_size=1, max_size=200), q=st.sampled_from([50, 90, 99]))
def test_a_quantile_is_within_the_resolution(times, q):
    """Against numpy's quantile of the exact times, taken at the first that reaches the rank."""
    stats = Stats()
    for t in times:
        stats.record("edge", t)
    exact = float(np.percentile(times, q, method="inverted_cdf"))
    found = getattr(stats.snapshot().sources["edge"], f"p{q}_s")
    assert exact / (1 + RESOLUTION) * (1 - 1e-9) <= found <= exact * (1 + RESOLUTION) * (1 + 1e-9)


@given(times=st.lists(st.floats(0.0, 1e4), min_size=1, max_size=50))
def test_mean_and_maximum_are_exact_and_quantiles_ordered(times):
    stats = Stats()
    for t in times:
        stats.record("edge", t)
    latency = stats.snapshot().sources["edge"]
    assert latency.mean_s == pytest.approx(math.fsum(times) / len(times))
    assert latency.max_s == max(times)
    assert latency.p50_s <= latency.p90_s <= latency.p99_s <= latency.max_s


def test_interpolation_within_a_bucket_is_even_on_the_log_scale():
    """100 equal times: half of the bucket's length on the log scale lies under the median."""
    stats = Stats()
    in_the_first_bucket = 1.04e-6
    stats.record("edge", in_the_first_bucket, 100)
    assert stats.snapshot().sources["edge"].p50_s == pytest.approx(1e-6 * 1.05**0.5)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 99.9999999, 100.0, 5000.0])
def test_times_outside_the_buckets_are_kept(seconds):
    stats = Stats()
    stats.record("edge", seconds)
    latency = stats.snapshot().sources["edge"]
    assert latency.count == 1
    assert latency.p99_s <= latency.max_s == seconds


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_an_invalid_time_is_refused_and_not_counted(seconds):
    stats = Stats()
    with pytest.raises(SettingError, match="time in seconds"):
        stats.record("edge", seconds)
    assert stats.snapshot().answers == 0


def test_more_deferred_than_answered_is_refused():
    with pytest.raises(SettingError, match="deferred <= count, got 2 and 1"):
        Stats().record("cloud", 0.1, 1, deferred=2)


def test_an_empty_batch_counts_nothing():
    stats = Stats()
    stats.record("edge", 0.1, 0)
    assert stats.snapshot().sources == {}


def test_a_source_is_logged_by_its_plain_name():
    stats = Stats()
    stats.record(Source.EDGE_FALLBACK, 0.1, deferred=1)
    assert list(json.loads(stats.snapshot().as_json())["sources"]) == ["edge_fallback"]
    assert type(next(iter(stats.snapshot().sources))) is str


def test_a_snapshot_does_not_change_and_reset_starts_from_nothing():
    stats = Stats()
    stats.record("edge", 0.1)
    stats.record_error("CloudError")
    before = stats.snapshot()
    stats.record("edge", 0.1)
    stats.record_error("CloudError")
    stats.reset()
    stats.record("edge", 0.2, 5)
    assert before.sources["edge"].count == 1
    assert before.errors == {"CloudError": 1}
    assert stats.snapshot().sources["edge"].count == 5
    assert stats.snapshot().errors == {}


def test_threads_lose_no_count():
    stats, together = Stats(), threading.Barrier(4)

    def work():
        together.wait()
        for _ in range(2000):
            stats.record("edge", 1e-3)
            stats.record("cloud", 1e-2, deferred=1)
            stats.record_error("CloudError")

    threads = [threading.Thread(target=work) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    snapshot = stats.snapshot()
    assert {name: s.count for name, s in snapshot.sources.items()} == {"edge": 8000, "cloud": 8000}
    assert (snapshot.deferred, snapshot.errors) == (8000, {"CloudError": 8000})


@given(st.lists(SECONDS, min_size=1, max_size=50))
def test_the_histogram_holds_every_time_in_a_narrow_bucket(times):
    stats = Stats()
    for total_s in times:
        stats.record(Source.EDGE, total_s)
    histogram = stats.snapshot().sources["edge"].histogram
    bounds = [bound for bound, _ in histogram]
    assert bounds == sorted(set(bounds))
    for bound, count in histogram:
        lowest = bound / (1 + RESOLUTION)
        within = [t for t in times if lowest * (1 - 1e-9) <= t <= bound * (1 + 1e-9)]
        assert count <= len(within)
    assert sum(count for _, count in histogram) == len(times)
