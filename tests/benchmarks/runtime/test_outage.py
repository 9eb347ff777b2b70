"""The outage measurement sees what callers of the cascade see."""

import math

import pytest

from benchmarks.runtime import outage
from benchmarks.runtime.outage import _Call, _figures, _Outage, measure_outages
from edge_runtime import Source

OPEN = "CloudCircuitOpenError: not asked"
LATE = "CloudDeadlineError: no answer"


@pytest.mark.slow
def test_a_short_outage_is_measured(bundle, monkeypatch):
    monkeypatch.setattr(outage, "_BEFORE_S", 0.2)
    monkeypatch.setattr(outage, "_AFTER_S", 3.0)
    figures = measure_outages(bundle, 0, outage_s=1.0)
    assert [(f.limit, f.unit) for f in figures] == [(0, ""), (5.0, "ms"), (3.0, "s")] * 2
    assert all(math.isfinite(f.value) for f in figures)
    for late, p99, first in (figures[:3], figures[3:]):
        # Far above the limits: this machine may have other work.
        assert late.value < 20
        assert p99.value < 200
        assert first.value < 6


def test_figures_of_calls_that_are_known():
    edge, cloud = Source.EDGE_FALLBACK, Source.CLOUD
    calls = [
        _Call(0.0, 0.001, cloud, ""),
        _Call(1.0, 1.5, edge, LATE),
        _Call(1.1, 1.7, edge, LATE),
        *[_Call(2.0 + i / 100, 2.0 + i / 100 + 0.002, edge, OPEN) for i in range(100)],
        _Call(3.5, 3.502, edge, OPEN),
        _Call(4.0, 4.25, cloud, ""),
        _Call(4.5, 4.6, cloud, ""),
    ]
    late, p99, first = _figures("killed", _Outage(calls, return_time=3.0), 1.0)
    assert late.value == 1
    assert "the longest 600 ms" in late.detail
    assert p99.value == pytest.approx(2.0)
    assert p99.detail == "100 calls; 2 reached their deadline before that"
    assert first.value == pytest.approx(1.25)


def test_a_server_that_never_comes_back_meets_no_limit():
    calls = [_Call(i / 100, i / 100 + 0.5, Source.EDGE_FALLBACK, "x") for i in range(10)]
    late, p99, first = _figures("killed", _Outage(calls, return_time=1.0), 1.0)
    assert (late.value, p99.value, first.value) == (0, math.inf, math.inf)
    assert "MISSED" in first.line()
