"""The metrics: the statistics in the form that Prometheus reads."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import urllib.request
from dataclasses import dataclass, field

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from cloud_stub.errors import ListenError
from cloud_stub.operations.metrics import MetricsServer, ModelCollector
from cloud_stub.scheduling.statistics import Outcome, Received, Statistics

pytestmark = pytest.mark.once

LARGE = {"model": "large"}


@dataclass
class Model:
    name: str = "large"
    statistics: Statistics = field(default_factory=Statistics)
    waiting: int = 0
    in_flight: int = 0
    hanging: int = 0
    is_usable: bool = True


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def collector(model):
    return ModelCollector([model], {"version": "1.2.3"})


def registry_of(collector):
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def samples(text):
    """Return {(name, labels): value} as Prometheus's own parser reads them."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(collector, name, **labels):
    values = samples(generate_latest(registry_of(collector)).decode())
    return values[(f"gatekeeper_cloud_{name}", *sorted(labels.items()))]


def test_a_server_without_calls_shows_zeros(collector):
    for outcome in Outcome:
        assert value(collector, "calls_total", **LARGE, outcome=str(outcome)) == 0
    assert value(collector, "call_duration_seconds_count", **LARGE) == 0
    assert value(collector, "ready", **LARGE) == 1
    assert value(collector, "build_info", version="1.2.3") == 1


def test_numbers_are_those_of_the_statistics(model, collector):
    statistics = model.statistics
    statistics.outcomes[Outcome.ANSWERED] = 5
    statistics.outcomes[Outcome.SHED] = 3
    statistics.rows = 12
    statistics.failed_s, statistics.input_s, statistics.output_s = 0.5, 0.25, 0.125
    statistics.last_unix_s = 1_700_000_000.5
    statistics.ignored_parameters = 4
    model.waiting, model.in_flight, model.hanging = 2, 6, 1
    model.is_usable = False
    for name, expected in (
        ("rows_total", 12),
        ("unanswered_seconds_total", 0.5),
        ("input_seconds_total", 0.25),
        ("output_seconds_total", 0.125),
        ("last_answer_timestamp_seconds", 1_700_000_000.5),
        ("ignored_parameters_total", 4),
        ("waiting_calls", 2),
        ("in_flight_calls", 6),
        ("hanging_workers", 1),
        ("ready", 0),
    ):
        assert value(collector, name, **LARGE) == expected, name
    assert value(collector, "calls_total", **LARGE, outcome="answered") == 5
    assert value(collector, "calls_total", **LARGE, outcome="shed") == 3


def test_histograms_are_cumulative(model, collector):
    for seconds in (0.0004, 0.002, 0.002, 0.3, 60.0):
        model.statistics.latency.observe(seconds)
    name = "call_duration_seconds"
    # Up to 0.0005 there is one value, up to 0.0025 and 0.25 three, up to 0.5 and 10 four.
    for bound, count in (("0.0005", 1), ("0.0025", 3), ("0.25", 3), ("0.5", 4), ("10.0", 4)):
        assert value(collector, f"{name}_bucket", **LARGE, le=bound) == count
    assert value(collector, f"{name}_bucket", **LARGE, le="+Inf") == 5
    assert value(collector, f"{name}_count", **LARGE) == 5
    assert value(collector, f"{name}_sum", **LARGE) == pytest.approx(60.3044)


def test_batches_are_counted_by_their_number_of_inputs(model, collector):
    model.statistics.record_batch(3, 0.01)
    model.statistics.record_batch(4, 0.03)
    assert value(collector, "batch_rows_bucket", **LARGE, le="2.0") == 0
    assert value(collector, "batch_rows_bucket", **LARGE, le="4.0") == 2
    assert value(collector, "batch_rows_sum", **LARGE) == 7
    assert value(collector, "compute_seconds_count", **LARGE) == 2
    assert value(collector, "compute_seconds_sum", **LARGE) == pytest.approx(0.04)


def test_figures_of_edges_are_kept_by_contract_version(model, collector):
    for version, confidence in (("1", 0.42), ("1", -0.6), ("unknown", 0.9)):
        received = model.statistics.received.setdefault(version, Received())
        received.confidence.observe(confidence)
        received.threshold.observe(0.5)
    model.statistics.received["1"].invalid = 2
    name, first = "received_confidence_bucket", LARGE | {"contract_version": "1"}
    # -0.75 < -0.6 <= -0.5 and 0.4 < 0.42 <= 0.45.
    for bound, count in (("-0.75", 0), ("-0.5", 1), ("0.4", 1), ("0.45", 2), ("+Inf", 2)):
        assert value(collector, name, **first, le=bound) == count
    assert value(collector, name, **LARGE, contract_version="unknown", le="+Inf") == 1
    assert value(collector, "received_threshold_bucket", **first, le="0.5") == 2
    assert value(collector, "received_threshold_bucket", **first, le="0.45") == 0
    assert value(collector, "received_invalid_total", **first) == 2


def test_every_model_is_shown(model):
    other = Model("larger")
    other.statistics.rows = 9
    collector = ModelCollector([model, other], {})
    assert value(collector, "rows_total", model="large") == 0
    assert value(collector, "rows_total", model="larger") == 9


def test_further_numbers_are_read_at_each_scrape(model):
    present = [1.0]
    numbers = {
        ("unauthenticated_calls_total", "Calls without an accepted token."): lambda: present[0],
        ("certificate_expiry_timestamp_seconds", "When the certificate ends."): lambda: None,
    }
    collector = ModelCollector([model], {}, numbers)
    assert value(collector, "unauthenticated_calls_total") == 1
    present[0] = 2.0
    assert value(collector, "unauthenticated_calls_total") == 2
    assert b"certificate" not in generate_latest(registry_of(collector))


def test_the_strict_parser_reads_the_openmetrics_form(model, collector):
    model.statistics.received["1"] = Received()
    model.statistics.received["1"].confidence.observe(-1.0)
    text = generate_openmetrics(registry_of(collector)).decode()
    names = {family.name for family in read_openmetrics(text)}
    assert {"gatekeeper_cloud_calls", "gatekeeper_cloud_received_confidence"} <= names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_no_error(model, collector):
    model.statistics.received["1"] = Received()
    text = generate_latest(registry_of(collector))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_the_metrics_are_served_on_loopback(model, collector):
    server = MetricsServer("127.0.0.1", 0, collector)
    model.statistics.rows = 7
    with urllib.request.urlopen(f"http://{server.address}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        values = samples(answer.read().decode())
    server.close()
    assert values["gatekeeper_cloud_rows_total", ("model", "large")] == 7
    assert values["process_resident_memory_bytes",] > 1e6


def test_a_port_in_use_is_named(collector):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"127.0.0.1:{port} for metrics .*--metrics-port"):
            MetricsServer("127.0.0.1", port, collector)


def test_listening_beyond_loopback_logs_a_warning(collector, caplog):
    MetricsServer("0.0.0.0", 0, collector).close()  # noqa: S104
    assert "can be read from other machines, in plaintext" in caplog.text


def test_a_silent_client_is_disconnected(collector, monkeypatch, capfd):
    monkeypatch.setattr("cloud_stub.operations.metrics._SILENT_CLIENT_S", 0.1)
    server = MetricsServer("127.0.0.1", 0, collector)
    host, port = server.address.split(":")
    before = threading.active_count()
    with socket.create_connection((host, int(port)), 30) as silent:
        assert silent.recv(1) == b""
    server.close()
    assert threading.active_count() <= before
    assert capfd.readouterr().err == ""
