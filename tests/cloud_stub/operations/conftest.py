"""What a running server wrote and serves, as an operator reads it."""

from __future__ import annotations

import json
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tools.waiting import wait_for


@pytest.fixture
def events():
    """Return the log of a server that writes JSON: every line is an object."""

    def read(server):
        return [json.loads(line) for line in server.errors]

    return read


@pytest.fixture
def await_event(events):
    """Return the first line of the log that begins so; it may take a moment to come."""

    def wait(server, event):
        found = wait_for(
            lambda: [line for line in events(server) if line["event"].startswith(event)]
        )
        assert found, f"no {event!r} in {server.errors}"
        return found[0]

    return wait


@pytest.fixture
def scrape(await_event):
    """Return {(name, labels): value} of a server's /metrics."""

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
