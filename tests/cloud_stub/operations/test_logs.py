"""The log of calls: its contents, and what it must never contain."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import threading
import warnings

import grpc
import pytest

from cloud_stub.operations import logs
from cloud_stub.protocol.inference import CallRecord
from cloud_stub.scheduling.statistics import Outcome

pytestmark = pytest.mark.once

PAYLOAD = "a text that a client sent"


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@contextlib.contextmanager
def written(style="json", level="info"):
    """Yield the list of written lines, complete after the block."""
    lines: list[str] = []
    with io.StringIO() as stream:
        writer = logs.configure(style, level, stream)
        yield lines
        writer.close()
        lines.extend(stream.getvalue().splitlines())


def call(outcome=Outcome.INVALID, code=grpc.StatusCode.INVALID_ARGUMENT, **changes):
    facts = {
        "model": "large",
        "request_id": "7",
        "client": "ipv4:127.0.0.1:5000",
        "rows": 2,
        "queue_s": 0.002,
        "compute_s": 0.01,
        "total_s": 0.0125,
    }
    logs.log_call(CallRecord(outcome=outcome, code=code, **facts | changes))


def look_up():
    return {}[PAYLOAD]


def answer():
    try:
        return look_up()
    except KeyError as error:
        raise RuntimeError(f"the model failed on {PAYLOAD}") from error


def test_a_failed_call_is_one_json_object_with_every_fact():
    with written() as lines:
        call()
    (line,) = [json.loads(line) for line in lines]
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "cloud_stub.calls",
        "event": "call",
        "model": "large",
        "request_id": "7",
        "peer": "ipv4:127.0.0.1:5000",
        "rows": 2,
        "outcome": "invalid",
        "code": "INVALID_ARGUMENT",
        "total_ms": 12.5,
        "queue_ms": 2.0,
        "compute_ms": 10.0,
    }


def test_the_text_form_holds_the_same():
    with written("text") as lines:
        call()
    time, _, rest = lines[0].partition(" ")
    assert time.endswith("Z")
    assert rest == (
        "WARNING call model=large request_id=7 peer=ipv4:127.0.0.1:5000 rows=2 outcome=invalid "
        "code=INVALID_ARGUMENT total_ms=12.5 queue_ms=2.0 compute_ms=10.0"
    )


def test_answered_calls_are_logged_only_at_debug():
    with written(level="info") as lines:
        call(Outcome.ANSWERED, code=grpc.StatusCode.OK)
    assert lines == []
    with written(level="debug") as lines:
        call(Outcome.ANSWERED, code=grpc.StatusCode.OK)
    assert json.loads(lines[0])["outcome"] == "answered"


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_client_cannot_forge_a_line(style):
    forged = 'x"}\r\n2026-01-01T00:00:00.000Z ERROR call\u2028model=large \x1b[2J'
    with written(style) as lines:
        call(request_id=forged, model="a b=c\n")
    assert len(lines) == 1
    assert lines[0].isascii()
    assert lines[0].isprintable()
    if style == "json":
        assert json.loads(lines[0])["request_id"] == forged
    else:
        assert 'model="a b=c\\n" ' in lines[0]


def test_strings_that_a_client_chose_are_shortened():
    with written() as lines:
        call(request_id="x" * 100_000, model="y" * 100_000)
    assert len(lines[0]) < 700


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_failure_is_logged_with_type_and_location_but_without_its_message(style):
    with written(style) as lines:
        try:
            answer()
        except RuntimeError:
            logging.getLogger("cloud_stub").exception("model failed")
    whole = "\n".join(lines)
    assert PAYLOAD not in whole
    assert "KeyError" in whole
    assert "RuntimeError" in whole
    assert whole.index("in look_up") < whole.rindex("in answer")


def test_exceptions_of_other_libraries_are_logged_without_their_messages_too():
    with written() as lines:
        try:
            look_up()
        except KeyError:
            logging.getLogger("grpc._cython.cygrpc").exception("Unexpected [KeyError] raised")
    assert PAYLOAD not in lines[0]
    assert "KeyError" in json.loads(lines[0])["error"]


def test_python_warnings_become_log_records():
    with written() as lines, warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("something is old", stacklevel=1)
    assert "something is old" in json.loads(lines[0])["event"]


def test_a_flood_of_bad_calls_is_limited_to_a_burst_and_then_one_per_second():
    now = [100.0]
    gate = logs.FloodGate(lambda: now[0])

    def passed(count, outcome="invalid", level=logging.WARNING):
        records = [
            logging.makeLogRecord({"name": "calls", "levelno": level, "outcome": outcome})
            for _ in range(count)
        ]
        return [record for record in records if gate.filter(record)]

    assert len(passed(1000)) == logs.BURST
    assert len(passed(1, "failed")) == 1  # a flood of one kind hides no other
    assert len(passed(1000, level=logging.INFO)) == 1000
    now[0] += 1.0
    (record,) = passed(10)
    assert record.suppressed == 1000 - logs.BURST
    now[0] += 1000.0
    first, *others = passed(1000)
    assert first.suppressed == 9
    assert len(others) == logs.BURST - 1
    assert not hasattr(others[0], "suppressed")


def test_a_flood_leaves_few_lines():
    with written() as lines:
        for _ in range(5000):
            call()
    assert logs.BURST <= len(lines) < 100


def test_a_reader_that_does_not_read_slows_no_call():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream, os.fdopen(reading, "rb") as reader:
        writer = logs.configure("json", "debug", stream)
        # More than pipe and queue can hold together: about 64 KiB and 1000 lines.
        for _ in range(5000):
            call(Outcome.ANSWERED, code=grpc.StatusCode.OK)
        assert writer.dropped > 0
        drain = threading.Thread(target=reader.read)
        drain.start()
        writer.close()
        stream.close()
        drain.join(10)
        assert not drain.is_alive()


def test_a_closed_stream_is_tolerated():
    stream = io.StringIO()
    writer = logs.configure("text", "info", stream)
    stream.close()
    call()
    writer.close()
    assert writer.dropped == 1
