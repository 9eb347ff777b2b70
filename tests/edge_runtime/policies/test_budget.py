"""No window ever holds more than the budget, and unused reservations are released."""

import threading
import time
from operator import itemgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import SettingError
from edge_runtime.policies.budget import DeferralBudget, Remaining


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_calls_beyond_the_budget_are_refused(clock):
    budget = DeferralBudget(max_calls=2, window_s=60, clock=clock)
    assert [budget.reserve(10) is not None for _ in range(3)] == [True, True, False]


def test_bytes_beyond_the_budget_are_refused_and_smaller_ones_still_fit(clock):
    budget = DeferralBudget(max_bytes=100, window_s=60, clock=clock)
    assert budget.reserve(70)
    assert budget.reserve(31) is None
    assert budget.reserve(30)
    assert budget.remaining() == Remaining(calls=None, bytes=0)


def test_a_request_larger_than_the_budget_never_fits(clock):
    budget = DeferralBudget(max_bytes=100, window_s=60, clock=clock)
    assert budget.reserve(101) is None


def test_a_budget_of_nothing_sends_nothing(clock):
    assert DeferralBudget(max_calls=0, window_s=60, clock=clock).reserve(0) is None


def test_a_place_is_held_for_the_whole_window_and_free_a_64th_later(clock):
    budget = DeferralBudget(max_calls=1, window_s=64, clock=clock)
    assert budget.reserve(1)
    clock.now += 64
    assert budget.reserve(1) is None
    clock.now += 1.1
    assert budget.reserve(1)


def test_a_refund_gives_the_place_back(clock):
    budget = DeferralBudget(max_calls=1, max_bytes=50, window_s=60, clock=clock)
    budget.refund(budget.reserve(50))
    assert budget.remaining() == Remaining(calls=1, bytes=50)


def test_a_refund_after_the_window_gives_nothing_back_twice(clock):
    budget = DeferralBudget(max_calls=2, window_s=60, clock=clock)
    old = budget.reserve(1)
    clock.now += 70
    budget.reserve(1)
    budget.refund(old)
    assert budget.remaining().calls == 1


def test_what_was_not_sent_of_a_reservation_comes_back(clock):
    budget = DeferralBudget(max_calls=5, max_bytes=100, window_s=60, clock=clock)
    budget.settle(budget.reserve(80), 30)
    assert budget.remaining() == Remaining(calls=4, bytes=70)


def test_more_than_was_reserved_is_charged_as_well(clock):
    budget = DeferralBudget(max_bytes=100, window_s=60, clock=clock)
    budget.settle(budget.reserve(80), 130)
    assert budget.remaining().bytes == 0
    assert budget.reserve(0) is None


def test_a_call_counts_from_its_end_because_it_may_have_been_sent_then(clock):
    budget = DeferralBudget(max_calls=1, window_s=64, clock=clock)
    held = budget.reserve(1)
    clock.now += 32
    budget.settle(held, 1)
    clock.now += 40  # over a window since it was reserved
    assert budget.reserve(1) is None


def test_a_call_in_flight_is_charged(clock):
    budget = DeferralBudget(max_calls=1, window_s=60, clock=clock)
    budget.reserve(1)
    assert budget.reserve(1) is None


def test_a_window_that_no_slots_divide_evenly_is_held_in_full(clock):
    """1,000 ns in 64 slots: with 15 ns each they would be 40 ns short."""
    clock.now = 14e-9
    budget = DeferralBudget(max_calls=1, window_s=1e-6, clock=clock)
    budget.reserve(1)
    clock.now = 1014e-9
    assert budget.reserve(1) is None


def test_the_wall_clock_does_not_matter(monkeypatch):
    budget = DeferralBudget(max_calls=1, window_s=3600)
    budget.reserve(1)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert budget.reserve(1) is None


def test_memory_does_not_grow_with_what_is_sent(clock):
    budget = DeferralBudget(max_bytes=10**12, window_s=60, clock=clock)
    for _ in range(5000):
        clock.now += 0.1
        budget.settle(budget.reserve(10), 10)
    assert len(budget._slots) <= 65


# 1/1024 s is exact in binary, and coarser than the nanoseconds that the budget counts in.
TICKS = st.integers(0, 3000)
STEPS = st.lists(
    st.tuples(TICKS, st.integers(0, 40), TICKS, st.integers(0, 40), st.booleans()), max_size=60
)


@settings(deadline=None)
@given(
    steps=STEPS,
    max_calls=st.integers(0, 6),
    max_bytes=st.integers(0, 100),
    window=st.integers(1, 5000),
)
def test_no_window_ever_exceeds_the_budget(steps, max_calls, max_bytes, window):
    """Brute force: every closed window that begins with a send, at the true moments of sending.

    A call is reserved, sent in the middle of its flight, and settled or (if nothing was sent)
    refunded at its end, while others begin.
    """
    clock = Clock(0.0)
    budget = DeferralBudget(
        max_calls=max_calls, max_bytes=max_bytes, window_s=window / 1024, clock=clock
    )
    now, sends, flying = 0, [], []

    def land(until):
        for end, held, sent in sorted((f for f in flying if f[0] <= until), key=itemgetter(0)):
            clock.now = end / 1024
            budget.refund(held) if sent is None else budget.settle(held, sent)
        flying[:] = [f for f in flying if f[0] > until]

    for gap, wanted, flight, unsent, is_refunded in steps:
        now += gap
        land(now)
        clock.now = now / 1024
        if (held := budget.reserve(wanted)) is None:
            continue
        end = now + min(flight, window)  # longer calls are outside the guarantee
        sent = max(wanted - unsent, 0)
        if not is_refunded:
            sends.append(((now + end) // 2, sent))
        flying.append((end, held, None if is_refunded else sent))
    for start, _ in sends:
        inside = [size for at, size in sends if start <= at <= start + window]
        assert len(inside) <= max_calls
        assert sum(inside) <= max_bytes


@settings(deadline=None)
@given(gaps=st.lists(st.integers(1, 400), min_size=1, max_size=300))
def test_a_paced_sender_gets_nearly_its_budget(gaps):
    """A caller that sends less than the budget in any 1 + 1/64 windows is never refused."""
    clock = Clock(0.0)
    budget = DeferralBudget(max_calls=10, window_s=1.0, clock=clock)
    sent = []
    for gap in gaps:
        clock.now += gap / 1024
        recent = [t for t in sent if t >= clock.now - 1.0 - 1 / 64 - 1e-6]
        held = budget.reserve(0)
        if len(recent) < 10:
            assert held is not None
        if held is not None:
            sent.append(clock.now)


def test_two_threads_do_not_both_take_the_last_place():
    budget = DeferralBudget(max_calls=1000, max_bytes=10**9, window_s=3600)
    taken, together = [], threading.Barrier(8)

    def work():
        together.wait()
        taken.append(sum(budget.reserve(3) is not None for _ in range(500)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1000
    assert budget.remaining() == Remaining(calls=0, bytes=10**9 - 3000)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"window_s": 60}, "got neither"),
        ({"max_calls": -1, "window_s": 60}, "max_calls of at least 0, got -1"),
        ({"max_bytes": -1, "window_s": 60}, "max_bytes of at least 0, got -1"),
        ({"max_calls": 1, "window_s": 0}, "window_s in seconds, more than 0, got 0"),
        ({"max_calls": 1, "window_s": float("nan")}, "got nan"),
        ({"max_calls": 1, "window_s": float("inf")}, "got inf"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, reason):
    with pytest.raises(SettingError, match=reason):
        DeferralBudget(**wrong)


def test_a_negative_size_is_refused(clock):
    budget = DeferralBudget(max_calls=1, window_s=60, clock=clock)
    with pytest.raises(SettingError, match="at least 0 bytes, got -1"):
        budget.reserve(-1)
    held = budget.reserve(1)
    with pytest.raises(SettingError, match="at least 0 bytes, got -1"):
        budget.settle(held, -1)
    assert budget.remaining().calls == 0
