"""The circuit breaker opens after failures in a row, and closes by a probe in the background."""

import math
import threading
import time

import pytest

from edge_runtime.cloud.breaker import BreakerSettings, CircuitBreaker
from edge_runtime.errors import (
    CloudDeadlineError,
    CloudOverloadedError,
    CloudProtocolError,
    CloudRejectedError,
    CloudUnavailableError,
    SettingError,
)

GONE = CloudUnavailableError("nobody there")
FAST = BreakerSettings(failures=3, probe_interval_s=0.01)
NEVER = BreakerSettings(failures=3, probe_interval_s=3600)
LONG_S = 10.0


class Probe:
    """A probe that returns a set result and counts its calls."""

    def __init__(self, is_back=False):
        self.is_back = is_back
        self.calls = 0
        self.threads = set()
        self.called = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self):
        self.calls += 1
        self.threads.add(threading.get_ident())
        self.called.set()
        self.gate.wait(LONG_S)
        return self.is_back


@pytest.fixture
def probe():
    return Probe()


@pytest.fixture
def breaker_of(probe):
    made = []

    def make(settings):
        made.append(CircuitBreaker(probe, settings))
        return made[-1]

    yield make
    for breaker in made:
        breaker.close()
    probe.gate.set()
    until(lambda: not probing())


def probing():
    return [thread for thread in threading.enumerate() if thread.name == "probe"]


def until(condition):
    end = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def fail(breaker, times, error=GONE):
    for _ in range(times):
        breaker.record_failure(error)


def test_failures_in_a_row_open_it_and_fewer_do_not(breaker_of):
    breaker = breaker_of(NEVER)
    fail(breaker, 2)
    breaker.check()
    assert not breaker.is_open
    fail(breaker, 1)
    assert breaker.is_open


def test_a_success_begins_the_count_anew(breaker_of):
    breaker = breaker_of(NEVER)
    for _ in range(5):
        fail(breaker, 2)
        breaker.record_success()
    assert not breaker.is_open


@pytest.mark.parametrize("kind", [CloudDeadlineError, CloudOverloadedError, CloudProtocolError])
def test_every_failure_of_the_server_counts(kind, breaker_of):
    breaker = breaker_of(NEVER)
    fail(breaker, 3, kind("x"))
    assert breaker.is_open


def test_a_refused_request_shows_that_the_server_is_up(breaker_of):
    breaker = breaker_of(NEVER)
    fail(breaker, 9, CloudRejectedError("bad input"))
    assert not breaker.is_open
    fail(breaker, 2)
    breaker.record_failure(CloudRejectedError("bad input"))
    fail(breaker, 2)
    assert not breaker.is_open


def test_while_open_calls_fail_at_once_with_the_reason(breaker_of):
    breaker = breaker_of(NEVER)
    fail(breaker, 2)
    breaker.record_failure(CloudDeadlineError("no answer within 7 s"))
    begin = time.monotonic()
    with pytest.raises(CloudUnavailableError, match=r"is open for 0\.\d s.*no answer within 7 s"):
        breaker.check()
    assert time.monotonic() - begin < 0.5


def test_a_probe_that_succeeds_closes_it(probe, breaker_of):
    breaker = breaker_of(FAST)
    fail(breaker, 3)
    until(lambda: probe.calls > 3)
    assert breaker.is_open
    probe.is_back = True
    until(lambda: not breaker.is_open)
    breaker.check()
    until(lambda: not probing())
    calls = probe.calls
    time.sleep(0.05)
    assert probe.calls == calls  # a closed circuit is not probed
    fail(breaker, 2)
    assert not breaker.is_open  # the count began anew


def test_the_first_probe_waits_for_its_interval(probe, breaker_of):
    fail(breaker_of(BreakerSettings(failures=1, probe_interval_s=0.5)), 1)
    begin = time.monotonic()
    assert probe.called.wait(LONG_S)
    assert time.monotonic() - begin > 0.35  # 0.5 s less a jitter of 20 %


def test_an_answer_that_was_on_its_way_closes_it(breaker_of):
    breaker = breaker_of(FAST)
    fail(breaker, 3)
    breaker.record_success()
    assert not breaker.is_open
    until(lambda: not probing())


def test_more_failures_while_it_is_open_start_no_more_probing(probe, breaker_of):
    breaker = breaker_of(FAST)
    fail(breaker, 50)
    until(lambda: probe.calls > 3)
    assert len(probing()) == 1


def test_many_threads_that_fail_at_once_open_it_once(probe, breaker_of):
    breaker = breaker_of(FAST)
    start = threading.Barrier(16)

    def call():
        start.wait()
        fail(breaker, 10)

    callers = [threading.Thread(target=call) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    until(lambda: probe.calls > 3)
    assert len(probing()) == 1
    assert len(probe.threads) == 1


def test_of_two_openings_only_the_second_is_probed(probe, breaker_of):
    breaker = breaker_of(FAST)
    probe.gate.clear()
    fail(breaker, 3)
    assert probe.called.wait(LONG_S)  # the first opening's probe hangs
    breaker.record_success()
    fail(breaker, 3)
    until(lambda: len(probing()) == 2)
    probe.gate.set()
    until(lambda: len(probing()) == 1)
    assert breaker.is_open


def test_close_ends_the_probing(probe, breaker_of):
    breaker = breaker_of(FAST)
    fail(breaker, 3)
    assert probe.called.wait(LONG_S)
    breaker.close()
    until(lambda: not probing())
    breaker_of(NEVER).close()


def test_close_does_not_wait_for_the_next_probe(breaker_of):
    breaker = breaker_of(NEVER)
    fail(breaker, 3)
    begin = time.monotonic()
    breaker.close()
    until(lambda: not probing())
    assert time.monotonic() - begin < 2
    fail(breaker, 3)  # by calls that were in flight
    until(lambda: not probing())


def test_a_probe_that_raises_has_failed_and_is_tried_again(probe):
    def probe_once():
        if not probe():
            raise RuntimeError("a defect")
        return True

    breaker = CircuitBreaker(probe_once, FAST)
    fail(breaker, 3)
    until(lambda: probe.calls > 3)
    with pytest.raises(CloudUnavailableError, match=r"its probe fails: RuntimeError\('a defect'\)"):
        breaker.check()
    probe.is_back = True
    until(lambda: not breaker.is_open)
    until(lambda: not probing())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"failures": 0}, "expected at least 1 as breaker failures, got 0"),
        ({"failures": -1}, "got -1"),
        ({"probe_interval_s": 0.0}, "seconds over 0, got 0"),
        ({"probe_interval_s": -1.0}, "seconds over 0"),
        ({"probe_interval_s": math.nan}, "got nan"),
        ({"probe_interval_s": math.inf}, "got inf"),
    ],
)
def test_invalid_settings_are_refused(settings, why):
    with pytest.raises(SettingError, match=why):
        BreakerSettings(**settings)
