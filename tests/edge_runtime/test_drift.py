"""The drift alarm is wrong as rarely as stated, and finds a change of five points soon enough."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.runtime.drift import measure_drift
from edge_runtime import contract
from edge_runtime.errors import BundleError, SettingError
from edge_runtime.policies import drift_statistics
from edge_runtime.policies.drift import DriftAlarm, DriftSettings
from edge_runtime.policies.drift_statistics import Counts

EXACT = DriftSettings(expected_ratio=0.3)
BUCKET = 100  # a 20th of the 2,000 calls


def feed(alarm, per_bucket):
    """Let buckets come; return the report, if there is one."""
    for deferred in per_bucket:
        if (report := alarm.observe(int(deferred), alarm.settings.bucket_calls)) is not None:
            return report
    return None


def drawn(generator, ratio, calls, repeats=1):
    return generator.binomial(BUCKET // repeats, ratio, calls // BUCKET) * repeats


@pytest.fixture
def draws():
    return np.random.default_rng(20)


# The statistics, against scipy.


@given(st.integers(0, 50), st.integers(51, 400), st.integers(0, 300), st.integers(301, 3000))
def test_the_signed_root_is_the_g_test_with_yates_correction(d, w, k, m):
    found = drift_statistics.signed_root(Counts(d, w), Counts(k, m))
    if d + k == 0:
        assert found == 0
        return
    table = [[d, w - d], [k, m - k]]
    expected = stats.chi2_contingency(table, correction=True, lambda_="log-likelihood").statistic
    assert found**2 == pytest.approx(expected, abs=1e-7)
    assert abs(found) < 1e-5 or (found > 0) == (d * m > k * w)


@given(st.integers(0, 200), st.sampled_from([0.02, 0.3, 0.5, 0.97]))
def test_the_signed_root_of_a_known_ratio_is_the_limit_of_a_sampled_one(d, ratio):
    endless = 10**9
    sampled = drift_statistics.signed_root(Counts(d, 200), Counts(ratio * endless, endless))
    assert drift_statistics.signed_root_known(Counts(d, 200), ratio) == pytest.approx(
        sampled, abs=1e-3
    )


@given(st.integers(0, 100), st.integers(0, 900))
def test_the_evidence_is_a_ratio_of_beta_binomials(deferred, kept):
    n = deferred + kept
    found = drift_statistics.log_evidence(Counts(deferred, n), Counts(60.5, 201), 84.0)
    ratio = 60.5 / 201
    drawn = stats.betabinom.logpmf(deferred, n, 84 * ratio, 84 * (1 - ratio))
    assert found == pytest.approx(
        drawn - stats.betabinom.logpmf(deferred, n, 60.5, 140.5), abs=1e-6
    )
    known = drift_statistics.log_evidence_known(Counts(deferred, n), ratio, 84.0)
    assert known == pytest.approx(drawn - stats.binom.logpmf(deferred, n, ratio), abs=1e-6)


def test_the_evidence_is_fair_before_it_is_seen():
    """Its mean is 1 where calls and calibration are drawn alike: summed over every outcome."""
    counts = np.arange(41)
    evidence = [
        drift_statistics.log_evidence(Counts(int(d), 40), Counts(3.5, 11), 20.0) for d in counts
    ]
    chances = stats.betabinom.pmf(counts, 40, 3.5, 7.5)
    assert float(np.exp(evidence) @ chances) == pytest.approx(1.0)


def test_the_bound_is_that_of_simulated_moving_means(draws):
    """20,000 months of normal noise: as many leave the bound as it was chosen for, nearly."""
    bound = drift_statistics.bound_for(0.09, 100, 19)
    noise = draws.standard_normal((20_000, 118))
    sums = np.cumsum(np.pad(noise, ((0, 0), (1, 0))), axis=1)
    means = (sums[:, 19:] - sums[:, :-19]) / np.sqrt(19)
    assert means.shape[1] == 100
    left = float((np.abs(means) >= bound).any(axis=1).mean())
    assert left == pytest.approx(0.09, abs=0.008)


# How often it is wrong, and what it finds.


@pytest.mark.parametrize("samples", [None, 200, 3000])
@pytest.mark.parametrize("ratio", [0.03, 0.3])
def test_false_alarms_stay_within_the_stated_rate(draws, samples, ratio):
    months, alarms = 500, 0
    for _ in range(months):
        expected = ratio if samples is None else draws.binomial(samples, ratio) / samples
        alarm = DriftAlarm(DriftSettings(expected_ratio=expected, samples=samples))
        alarms += feed(alarm, drawn(draws, ratio, 10_000)) is not None
    assert alarms <= 0.1 * months
    assert alarms >= 0.02 * months  # it is no alarm that never rings


@pytest.mark.parametrize("ratio", [0.35, 0.25])
@pytest.mark.parametrize("after_calls", [0, 10_000])
def test_five_points_are_found_within_2000_calls_in_95_of_100(draws, ratio, after_calls):
    found = runs = 0
    while runs < 400:
        alarm = DriftAlarm(EXACT)
        if feed(alarm, drawn(draws, 0.3, after_calls)) is None:
            runs += 1
            found += feed(alarm, drawn(draws, ratio, 2_000)) is not None
    assert found >= 0.95 * runs


@pytest.mark.slow
def test_every_figure_is_met_over_300_months_and_1000_shifts():
    figures = measure_drift(seed=0, months=300)
    assert [f.line() for f in figures if f.value > f.limit] == []


def test_a_few_calibration_samples_are_sharpened_by_the_calls_before_a_change(draws):
    found = 0
    for _ in range(100):
        expected = draws.binomial(2000, 0.3) / 2000
        alarm = DriftAlarm(DriftSettings(expected_ratio=expected, samples=2000))
        while feed(alarm, drawn(draws, 0.3, 20_000)) is not None:
            alarm.reset()
        found += feed(alarm, drawn(draws, 0.35, 2_000)) is not None
    assert found >= 90


@pytest.mark.parametrize("start", [0, 50_000])
def test_a_large_change_is_found_long_before_the_window_is_full_of_it(draws, start):
    alarm = DriftAlarm(EXACT)
    feed(alarm, [30] * (start // BUCKET))
    report = feed(alarm, [90] * 10)
    # The window's 1,900 calls allow 2.96 of 20 standard deviations: 60 more deferred, and 90 - 30
    # are 60 a bucket.
    assert report.at_call - start <= 200
    assert report.since_call == start
    assert report.observed_ratio == 0.9


def test_the_report_says_since_when():
    alarm = DriftAlarm(EXACT)
    feed(alarm, [30] * 40)
    report = feed(alarm, [38] * 20)
    assert report.since_call == 4_000
    assert report.observed_ratio == 0.38
    assert report.observed_calls == report.at_call - 4_000


def test_a_change_too_small_for_the_window_is_found_by_all_calls():
    """31.5 of 100: 1.4 standard deviations in a window, 6.5 over 40,000 calls."""
    alarm = DriftAlarm(EXACT)
    report = feed(alarm, [31, 32] * 200)
    assert report.is_slow
    assert report.since_call == 0
    assert report.observed_ratio == pytest.approx(0.315, abs=1e-4)


def test_a_calibration_of_few_samples_is_no_reason_for_an_alarm():
    """0.33 lies within one standard error of 0.30 on 200 samples; then the change is one of 5."""
    alarm = DriftAlarm(DriftSettings(expected_ratio=0.3, samples=200))
    assert feed(alarm, [33] * 500) is None
    report = feed(alarm, [38] * 20)
    assert report.reference_ratio == pytest.approx(0.33, abs=1e-3)
    assert "0.380 of the last" in report.text
    assert "calibrated for 0.300 of 200 inputs, and 0.330 is what came before" in report.text
    assert "python -m export retune" in report.text


def test_a_gate_that_never_deferred_in_calibration_is_watched_too():
    alarm = DriftAlarm(DriftSettings(expected_ratio=0.0, samples=2000))
    assert feed(alarm, [0] * 500) is None
    assert feed(alarm, [2] * 20) is not None


def test_alike_neighbours_need_repeats(draws):
    def alarms(repeats):
        alarmed = 0
        for _ in range(100):
            alarm = DriftAlarm(dataclasses.replace(EXACT, repeats=repeats))
            alarmed += feed(alarm, drawn(draws, 0.3, 10_000, repeats=10)) is not None
        return alarmed

    assert alarms(1) > 90
    assert alarms(10) <= 15


# What it is told, and what it tells.


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 99), max_size=5))
def test_calls_one_by_one_are_the_same_as_in_groups(seed, cuts):
    calls = np.random.default_rng(seed).random(3_000) < np.repeat([0.3, 0.4], [1000, 2000])
    single, grouped, whole = DriftAlarm(EXACT), DriftAlarm(EXACT), DriftAlarm(EXACT)
    for call in calls.tolist():
        single.observe(int(call), 1)
    for bucket in calls.reshape(-1, BUCKET):
        whole.observe(int(bucket.sum()), BUCKET)
        for part in np.split(bucket, sorted(cuts)):
            grouped.observe(int(part.sum()), len(part))
    assert single.report == grouped.report == whole.report
    assert single.state == grouped.state == whole.state


def test_a_batch_over_several_looks_is_spread_evenly():
    batch, looks = DriftAlarm(EXACT), DriftAlarm(EXACT)
    batch.observe(7, 50)
    batch.observe(150 * 4, 500 * 4)
    looks.observe(7, 50)
    looks.observe(15, 50)
    for _ in range(19):
        looks.observe(30, 100)
    looks.observe(15, 50)
    assert batch.state == looks.state
    for alarm in (batch, looks):
        alarm.observe(20, 50)
    assert batch.state == looks.state


def test_an_empty_observation_changes_nothing():
    alarm = DriftAlarm(EXACT)
    assert alarm.observe(0, 0) is None
    assert alarm.state.calls == 0
    assert alarm.state.observed_ratio is None


def test_the_alarm_is_given_once_and_stands_until_reset():
    alarm = DriftAlarm(EXACT)
    report = feed(alarm, [60] * 10)
    assert alarm.report is report
    assert feed(alarm, [60] * 10) is None
    state = alarm.state
    assert (state.alarmed, state.expected_ratio, state.since_call) == (True, 0.3, 0)
    assert state.calls == report.at_call + 1000
    alarm.reset()
    assert (alarm.report, alarm.state.calls, alarm.state.alarmed) == (None, 0, False)
    assert feed(alarm, [30] * 100) is None
    assert feed(alarm, [60] * 10) is not None


def test_the_state_shows_the_window(draws):
    alarm = DriftAlarm(EXACT)
    feed(alarm, [28] * 30)
    feed(alarm, [32] * 9)
    assert alarm.state.observed_ratio == pytest.approx((10 * 28 + 9 * 32) / 1900)


def test_threads_lose_no_call():
    alarm, together = DriftAlarm(EXACT), threading.Barrier(4)

    def work():
        together.wait()
        for i in range(3000):
            alarm.observe(i % 10 < 3, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alarm.state.calls == 12_000
    assert alarm.state.observed_ratio == pytest.approx(0.3, abs=0.02)


def test_the_detectable_shift_follows_from_bound_and_sizes():
    """(2.96 + 1.645) standard deviations of 1,900 calls against so many calibration samples."""
    for samples, after, inverse in [
        (None, 0, 1 / 1900),
        (2000, 0, 1 / 1900 + 1 / 2000),
        (2000, 50_000, 1 / 1900 + 1 / 52_000),
    ]:
        found = DriftSettings(expected_ratio=0.3, samples=samples).detectable_shift(after)
        assert found == pytest.approx((2.9617 + 1.645) * (0.21 * inverse) ** 0.5, rel=1e-3)


# The bundle's calibration record.


def metadata(**changes):
    fields = {
        "contract_version": 1,
        "task": "image-classification",
        "confidence_kind": "max_softmax",
        "confidence_range": (0.1, 1.0),
        "threshold": 0.5,
        "labels": ("cat", "dog"),
        "input": contract.InputDescription(name="image", dtype="uint8", shape=("batch", 8, 8, 3)),
        "calibration": {"goal": "target_deferral", "target": 0.3, "achieved": 0.297, "n": 2000},
    }
    return contract.GateMetadata(**{**fields, **changes})


def test_the_expectation_is_what_the_calibration_achieved_not_what_was_asked_for():
    alarm = DriftAlarm.from_calibration(metadata(), threshold=0.5, alpha=0.01)
    assert alarm.settings == DriftSettings(expected_ratio=0.297, samples=2000, alpha=0.01)


def test_an_exported_bundle_has_what_it_takes(bundle):
    from edge_runtime import EdgeModel

    edge = EdgeModel.open(bundle)
    alarm = DriftAlarm.from_calibration(edge.metadata, threshold=edge.threshold)
    assert alarm.settings.samples == edge.metadata.calibration["n"]


def test_a_threshold_set_by_hand_is_refused():
    with pytest.raises(SettingError, match="was set by hand: choose it on data"):
        DriftAlarm.from_calibration(metadata(calibration=None))


def test_another_threshold_than_the_calibrated_is_refused():
    with pytest.raises(SettingError, match=r"calibrated threshold 0\.5 .* got 0\.7 in its place"):
        DriftAlarm.from_calibration(metadata(), threshold=0.7)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"achieved": 0.3},
        {"achieved": "0.3", "n": 10},
        {"achieved": True, "n": 10},
        {"achieved": 1.5, "n": 10},
        {"achieved": float("nan"), "n": 10},
        {"achieved": 0.3, "n": 0},
        {"achieved": 0.3, "n": 2.5},
    ],
)
def test_a_record_of_another_kind_is_refused(record):
    with pytest.raises(BundleError, match="expected achieved in"):
        DriftAlarm.from_calibration(metadata(calibration=record))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"expected_ratio": 0.0}, "at 0 and 1 give samples"),
        ({"expected_ratio": float("nan")}, "got nan"),
        ({"expected_ratio": 1.1, "samples": 10}, r"in \[0, 1\], got 1.1"),
        ({"samples": 0}, "samples of at least 1, got 0"),
        ({"alpha": 0.0}, "alpha, the probability of a false alarm, .* got 0.0"),
        ({"alpha": 0.7}, "got 0.7"),
        ({"within_calls": 100}, "within_calls of at least 200, got 100"),
        ({"horizon_calls": 1000}, "state alpha for more calls"),
        ({"repeats": 0.5}, "repeats in"),
        ({"repeats": 200}, "raise within_calls"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, reason):
    with pytest.raises(SettingError, match=reason):
        DriftSettings(**{"expected_ratio": 0.3, **wrong})


@pytest.mark.parametrize(("deferred", "total"), [(2, 1), (-1, 1), (0, -1)])
def test_more_deferred_than_there_were_is_refused(deferred, total):
    alarm = DriftAlarm(EXACT)
    with pytest.raises(SettingError, match="0 <= deferred <= total"):
        alarm.observe(deferred, total)
    assert alarm.state.calls == 0
