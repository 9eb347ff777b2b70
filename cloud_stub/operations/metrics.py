"""`/metrics` for Prometheus, computed from the statistics on request, without slowing calls."""

from __future__ import annotations

import http.server
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from cloud_stub.errors import ListenError
from cloud_stub.models import ServedModel
from cloud_stub.scheduling.statistics import Histogram, Statistics
from edge_runtime.errors import DependencyError
from edge_runtime.wire.address import is_loopback, join_address

try:
    from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError:
    raise DependencyError("prometheus_client", "--metrics-port", "serve") from None

PREFIX: Final = "gatekeeper_cloud_"
_SILENT_CLIENT_S: Final = 5.0
_LOG: Final = logging.getLogger(__name__)
_Models: TypeAlias = Sequence[ServedModel]

_FIGURES: Final[tuple[tuple[str, str, Callable[[ServedModel], float]], ...]] = (
    ("rows_total", "Inputs answered.", lambda m: m.statistics.rows),
    (
        "ignored_parameters_total",
        "Request parameters without a meaning here.",
        lambda m: m.statistics.ignored_parameters,
    ),
    (
        "unanswered_seconds_total",
        "Time of calls that were not answered.",
        lambda m: m.statistics.failed_s,
    ),
    (
        "input_seconds_total",
        "Time spent on reading and decoding inputs.",
        lambda m: m.statistics.input_s,
    ),
    ("output_seconds_total", "Time spent on writing answers.", lambda m: m.statistics.output_s),
    ("waiting_calls", "Calls that wait for a worker.", lambda m: m.waiting),
    ("in_flight_calls", "Calls that workers have.", lambda m: m.in_flight),
    (
        "hanging_workers",
        "Workers that were given up and have not come back.",
        lambda m: m.hanging,
    ),
    ("ready", "1 while the model accepts calls, otherwise 0.", lambda m: float(m.is_usable)),
    (
        "last_answer_timestamp_seconds",
        "Time of the last answer; 0 if there was none.",
        lambda m: m.statistics.last_unix_s,
    ),
)
"""Name, help and value of each figure; a name that ends in `_total` is a counter."""
_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[Statistics], Histogram]], ...]] = (
    (
        "call_duration_seconds",
        "From a request's last byte to its answer's first, of answered calls.",
        lambda s: s.latency,
    ),
    (
        "queue_wait_seconds",
        "Time that answered calls waited for the model.",
        lambda s: s.queue_wait,
    ),
    ("compute_seconds", "Time that the model worked, one value per batch.", lambda s: s.compute),
    ("batch_rows", "Inputs per batch.", lambda s: s.batch_rows),
)


class ModelCollector(Collector):
    """The metrics of every model, computed from its statistics at each scrape.

    Args:
        models: The served models.
        build: Description of this installation, e.g. `{"version": "0.1.0"}`.
        numbers: Further figures of the server: (name, help) -> function that returns the present
            value, or None to leave it out. A name that ends in `_total` is a counter, any other a
            gauge.
    """

    def __init__(
        self,
        models: Iterable[ServedModel],
        build: Mapping[str, str],
        numbers: Mapping[tuple[str, str], Callable[[], float | None]] | None = None,
    ) -> None:
        self._models = list(models)
        self._build = dict(build)
        self._numbers = dict(numbers or {})

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now; called by prometheus_client."""
        yield InfoMetricFamily(f"{PREFIX}build", "Version of the server.", self._build)
        for family in (_calls, _figures, _histograms, _received):
            yield from family(self._models)
        for (name, help_text), number in self._numbers.items():
            value = number()
            if value is not None:
                yield _kind(name)(f"{PREFIX}{name}", help_text, value)


class MetricsServer:
    """Serves metrics over HTTP from threads of its own, in plaintext and without authentication.

    Args:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        collector: Metrics to serve, besides the process's memory, time and open files.

    Attributes:
        address: HOST:PORT that it listens on.

    Raises:
        ListenError: The address cannot be listened on.
    """

    def __init__(self, host: str, port: int, collector: Collector) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        ProcessCollector(registry=registry)
        try:
            self._server = _open(host, port, MetricsHandler.factory(registry))
        except OSError as error:
            raise ListenError(
                f"cannot listen on {join_address(host, port)} for metrics "
                f"({error.strerror or error}): choose another --metrics-port (0 takes a free one)"
            ) from None
        self.address = join_address(host, self._server.server_address[1])
        if not is_loopback(host):
            _LOG.warning(
                "metrics on %s can be read from other machines, in plaintext: they contain the "
                "names of models and the number of calls",
                self.address,
            )
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a client left, instead of printing a traceback on standard error."""
        _LOG.debug("client of the metrics left", extra={"peer": str(client_address)}, exc_info=True)


def _open(host: str, port: int, handler: type[http.server.BaseHTTPRequestHandler]) -> _Server:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # A client that sends nothing must not keep a thread for ever.
    patient = type("Handler", (handler,), {"timeout": _SILENT_CLIENT_S})
    server_class = type("Server", (_Server,), {"address_family": family})
    server: _Server = server_class(address[:2], patient)
    return server


def _calls(models: _Models) -> Iterable[Metric]:
    family = _family("calls_total", "Inference calls by outcome.", "outcome")
    for model in models:
        for outcome, count in model.statistics.outcomes.items():
            family.add_metric([model.name, str(outcome)], count)
    yield family


def _figures(models: _Models) -> Iterable[Metric]:
    for name, help_text, figure in _FIGURES:
        family = _family(name, help_text)
        for model in models:
            family.add_metric([model.name], figure(model))
        yield family


def _histograms(models: _Models) -> Iterable[Metric]:
    for name, help_text, histogram in _HISTOGRAMS:
        family = HistogramMetricFamily(f"{PREFIX}{name}", help_text, labels=["model"])
        for model in models:
            _add(family, [model.name], histogram(model.statistics))
        yield family


def _received(models: _Models) -> Iterable[Metric]:
    """Yield the figures that edges report with the inputs they forward.

    These have buckets only: with negative values a sum means nothing, and Prometheus allows none.
    """
    confidence, threshold = (
        HistogramMetricFamily(
            f"{PREFIX}received_{name}", help_text, labels=["model", "contract_version"]
        )
        for name, help_text in (
            ("confidence", "The small model's confidence, one value per input."),
            ("threshold", "The threshold that it did not reach, one value per call."),
        )
    )
    invalid_help = "Confidences and thresholds that are not numbers."
    invalid = _family("received_invalid_total", invalid_help, "contract_version")
    for model in models:
        # A copy: the event loop may add a version meanwhile.
        for version, received in model.statistics.received.copy().items():
            _add(confidence, [model.name, version], received.confidence)
            _add(threshold, [model.name, version], received.threshold)
            invalid.add_metric([model.name, version], received.invalid)
    yield from (confidence, threshold, invalid)


def _family(name: str, help_text: str, *labels: str) -> CounterMetricFamily | GaugeMetricFamily:
    return _kind(name)(f"{PREFIX}{name}", help_text, labels=["model", *labels])


def _kind(name: str) -> type[CounterMetricFamily | GaugeMetricFamily]:
    return CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    counts = list(itertools.accumulate(histogram.counts))
    bounds = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    family.add_metric(labels, list(zip(bounds, counts, strict=True)), histogram.sum)
