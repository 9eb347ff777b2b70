"""The soak through an outage sees what callers of the cascade see."""

import math
import signal

import grpc
import pytest

from benchmarks.processes import Server, running_server
from benchmarks.runtime.outage import _Call, _figures, _Soak, outage_figures
from edge_runtime import Source
from edge_runtime.wire import messages as pb

pytestmark = pytest.mark.slow
OPEN = "CloudUnavailableError: not asked, the circuit breaker is open for 1.0 s"


def test_a_short_outage_is_measured(bundle):
    figures = outage_figures(bundle, 0, outage_s=2.0)
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
        _Call(1.0, 1.5, edge, "CloudDeadlineError: x"),
        _Call(1.1, 1.7, edge, "CloudDeadlineError: x"),
        *[_Call(2.0 + i / 100, 2.0 + i / 100 + 0.002, edge, OPEN) for i in range(100)],
        _Call(3.5, 3.502, edge, OPEN),
        _Call(4.0, 4.25, cloud, ""),
        _Call(4.5, 4.6, cloud, ""),
    ]
    late, p99, first = _figures("killed", _Soak(calls, back=3.0), 1.0)
    assert late.value == 1
    assert "the longest 600 ms" in late.detail
    assert p99.value == pytest.approx(2.0)
    assert p99.detail.startswith("100 calls; 2 had waited")
    assert first.value == pytest.approx(1.25)


def test_a_server_that_never_comes_back_meets_no_limit():
    calls = [_Call(i / 100, i / 100 + 0.5, Source.EDGE_FALLBACK, "x") for i in range(10)]
    late, p99, first = _figures("killed", _Soak(calls, back=1.0), 1.0)
    assert (late.value, p99.value, first.value) == (0, math.inf, math.inf)
    assert "MISSED" in first.line()


def test_a_server_comes_back_at_its_address():
    with Server(["benchmarks.runtime.echo_server"]) as server:
        address = server.address
        server.kill()
        server.start()
        assert server.address == address
        server.send(signal.SIGSTOP)  # and is stopped in order all the same


def test_the_echo_server_is_ready_and_knows_no_more():
    with (
        running_server(["benchmarks.runtime.echo_server"]) as address,
        grpc.insecure_channel(address) as it,
    ):
        reply = it.unary_unary(pb.METHODS["ModelReady"], None, None)(b"", timeout=20)
        assert pb.ModelReadyResponse.FromString(reply).ready
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            it.unary_unary(pb.METHODS["ServerLive"], None, None)(b"", timeout=20)
