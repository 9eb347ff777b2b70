"""Log and metrics of a running server, as an operator reads them."""

from __future__ import annotations

import json
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tools.waiting import wait_for


@pytest.fixture
def events():
    """Return a function that parses the JSON log of a server."""

    def read(server):
        return [json.loads(line) for line in server.errors]

    return read


@pytest.fixture
def await_event(events):
    """Return a function that waits for the first log line with an event that begins with a text."""

    def wait(server, event):
        lines = wait_for(
            lambda: [line for line in events(server) if line["event"].startswith(event)]
        )
        assert lines, f"no {event!r} in {server.errors}"
        return lines[0]

    return wait


@pytest.fixture
def scrape(await_event):
    """Return a function that returns {(name, labels): value} of a server's /metrics."""

    def read(server):
        address = await_event(server, "metrics are served")["address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            (sample.name.removeprefix("gatekeeper_cloud_"), *sorted(sample.labels.items())): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    return read
