"""Thresholds for a deferral ratio, their interval, and the band of a second look."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.contract import SecondLook
from export.calibration import (
    MaxRisk,
    Sample,
    TargetDeferral,
    band_note,
    calibrate,
    calibrate_look,
    threshold_for_deferral_ratio,
)
from export.errors import CalibrationError

pytestmark = pytest.mark.once


@given(
    coarse=st.lists(st.integers(0, 6), min_size=1, max_size=40),
    ratio=st.floats(0, 1),
)
def test_the_threshold_cannot_be_raised(coarse, ratio):
    confidence = np.array(coarse, np.float32) / 8
    threshold = threshold_for_deferral_ratio(confidence, ratio)
    allowed = np.floor(ratio * confidence.size + 1e-9)
    assert (confidence < threshold).sum() <= allowed
    if np.isfinite(threshold):
        higher = np.nextafter(threshold, np.float32(np.inf))
        assert (confidence < higher).sum() > allowed


def test_three_of_ten_are_deferred_in_spite_of_binary_fractions():
    confidence = np.arange(10, dtype=np.float32)
    assert threshold_for_deferral_ratio(confidence, 0.3) == 3


def test_a_tied_group_is_not_split():
    confidence = np.array([0.1, 0.5, 0.5, 0.5, 0.9], np.float32)
    assert threshold_for_deferral_ratio(confidence, 0.6) == np.float32(0.5)


def test_nan_counts_as_deferred():
    confidence = np.array([np.nan, 0.2, 0.4, 0.6], np.float32)
    assert threshold_for_deferral_ratio(confidence, 0.5) == np.float32(0.4)
    with pytest.raises(CalibrationError, match="NaN"):
        threshold_for_deferral_ratio(confidence, 0.2)


def test_the_interval_covers_fresh_data():
    draws = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        confidence = draws.random(300).astype(np.float32)
        sample = Sample(confidence, np.ones(300, bool))
        threshold, record = calibrate(TargetDeferral(0.3), sample, data="d", split="s")
        low, high = record["interval"]
        inside += low <= (draws.random(300) < threshold).mean() <= high
    # 99 % of 200 is 198; the bound is four standard deviations below.
    assert inside >= 192


@pytest.mark.parametrize(
    ("threshold", "says"),
    [(0.5, ", looks twice at 20.0%"), (0.39, "out of"), (0.61, "out of")],
)
def test_a_second_look_without_effect_is_noted(threshold, says):
    look = SecondLook(view="mirror", low=0.4, high=0.6, band=0.1, share=0.2)
    note = band_note(threshold, look)
    assert says in note
    assert ("--second-look" in note) == (threshold != 0.5)
    assert band_note(threshold, None) == ""


def test_nothing_to_calibrate_on_is_refused():
    with pytest.raises(CalibrationError, match="at least one confidence"):
        Sample(np.empty(0, np.float32), np.empty(0, bool))


def test_a_band_that_is_chosen_on_the_data_of_a_guarantee_is_refused():
    sample = Sample(np.linspace(0, 1, 100, dtype=np.float32), np.ones(100, bool))
    with pytest.raises(CalibrationError, match="--band 1"):
        calibrate_look(lambda low, high: sample, view="mirror", goal=MaxRisk(0.1, 0.1), band=0.1)
    _, look = calibrate_look(
        lambda low, high: sample, view="mirror", goal=MaxRisk(0.1, 0.1), band=1.0
    )
    assert look.is_of_every_input
