import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_runtime.language.generation import floor_of, is_certain

KINDS = ("neg_entropy", "mean_logprob", "sum_logprob", "min_prob", "max_softmax")
NUMBERS = st.floats(-20.0, 0.0, width=32) | st.sampled_from([0.0, -0.0, -1e-38, -1e-45, -np.inf])
TOKENS = st.lists(NUMBERS | st.just(np.nan), min_size=1, max_size=40)
STEPS_OFF = st.integers(-2, 2)


def accumulated(kind, tokens):
    """Return the accumulator after each token, in the float32 arithmetic of a graph."""
    values = np.asarray(tokens, np.float32)
    if kind == "min_prob":
        # numpy's least value of anything with a NaN is NaN, as the graph has it
        return np.minimum.accumulate(np.minimum(values, np.float32(0)))
    if kind == "max_softmax":
        with np.errstate(invalid="ignore"):
            return values[0] + np.cumsum(values * np.float32(0), dtype=np.float32)
    sums, total = [], np.float32(0)
    for value in values:
        total = np.float32(total + value)
        sums.append(total)
    return np.array(sums)


def confidences(kind, tokens, library):
    """Return the confidence after each token, as one of several libraries may round it."""
    sums = accumulated(kind, tokens)
    counts = np.arange(1, len(sums) + 1, dtype=np.float32)
    with np.errstate(under="ignore"):
        if kind in {"neg_entropy", "mean_logprob"}:
            return sums * (np.float32(1) / counts) if library["multiplies"] else sums / counts
        if kind == "sum_logprob":
            return sums
        values = np.exp(sums, dtype=np.float32)
    for _ in range(abs(library["ulps"])):
        values = np.nextafter(values, np.float32(np.inf if library["ulps"] > 0 else 0))
    return values


LIBRARIES = st.fixed_dictionaries({"multiplies": st.booleans(), "ulps": STEPS_OFF})
EXACT = {"multiplies": False, "ulps": 0}


@pytest.mark.parametrize("kind", KINDS)
@given(tokens=TOKENS, further=st.integers(0, 8), library=LIBRARIES, data=st.data())
@example(tokens=[-1.0], further=0, library=EXACT, data=None)
def test_a_certain_deferral_is_the_decision_of_the_whole_generation(
    kind, tokens, further, library, data
):
    given_ = confidences(kind, tokens, library)
    # Thresholds next to what is reached, where rounding decides.
    near = [float(v) for v in given_ if not math.isnan(v)] or [-1.0]
    limits = [len(tokens), len(tokens) + further]
    thresholds = near if data is None else [data.draw(st.sampled_from(near) | NUMBERS)]
    for limit in limits:
        for threshold in (float(np.float32(t)) for t in thresholds):
            floor = floor_of(kind, threshold, limit)
            with np.errstate(under="ignore"):
                defers = ~(given_ >= np.float32(threshold))
            for at, value in enumerate(accumulated(kind, tokens)):
                if is_certain(float(value), floor):
                    assert defers[at:].all()


@pytest.mark.parametrize(
    ("kind", "threshold", "tokens"),
    [
        ("neg_entropy", -1.0, [-1.0, -1.0, -2.01]),  # -4.01 of at most 4 tokens
        ("mean_logprob", -0.5, [-0.5, -0.5, -1.01]),
        ("sum_logprob", -2.0, [-1.0, -0.5, -0.51]),
        ("min_prob", 0.5, [-0.1, -0.6, -0.7]),  # exp(-0.7) = 0.497
        ("max_softmax", 0.5, [-0.7]),
    ],
)
def test_a_deferral_is_certain_as_soon_as_no_further_token_can_lift_it(kind, threshold, tokens):
    floor = floor_of(kind, threshold, 4)
    found = [is_certain(float(value), floor) for value in accumulated(kind, tokens)]
    assert found == [False] * (len(tokens) - 1) + [True]


def test_a_kind_that_is_not_known_is_never_certain():
    assert floor_of("deferral_head", 0.9, 4) is None
    assert not is_certain(-1e30, None)
    assert not is_certain(math.nan, None)


@pytest.mark.parametrize("kind", KINDS)
def test_an_accumulator_that_is_not_a_number_is_certain_to_defer(kind):
    assert is_certain(math.nan, floor_of(kind, -math.inf, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_an_accumulator_that_no_such_kind_has_is_never_certain(kind):
    assert not is_certain(0.5, floor_of(kind, 2.0, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_without_bounds_settles_it_for_every_number(kind):
    assert not is_certain(-math.inf, floor_of(kind, -math.inf, 4))
    assert is_certain(-0.0, floor_of(kind, math.inf, 4))
