"""Thousands of requests that nobody would send on purpose do not stop the server.

The environment variable GATEKEEPER_FUZZ sets another number of requests.
"""

from __future__ import annotations

import io
import os
from collections import Counter

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from tools.graphs import ELEMENTS, FIELDS, SIZES

from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

REQUESTS = int(os.environ.get("GATEKEEPER_FUZZ", "5000"))
pytestmark = [pytest.mark.slow, pytest.mark.once, pytest.mark.timeout(600 + REQUESTS / 20)]

AT_ONCE = 40  # below the server's queue limit, so that no request is refused for lack of room
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
NOT_FINITE = "is not a finite number"
"""End of the message when random bytes were NaN and the graph returned them: its own fault."""
GROWTH_BYTES = 400 << 20
WITHIN_S = 60
INFER, STREAM = "ModelInfer", "ModelStreamInfer"


def infer_request(model, *inputs, **fields):
    """Return a request; each input is name, datatype, shape, and raw contents or typed values."""
    request = pb.ModelInferRequest(model_name=model, id="1", **fields)
    for name, datatype, shape, contents in inputs:
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if isinstance(contents, bytes):
            request.raw_input_contents.append(contents)
        else:
            getattr(tensor.contents, FIELDS[datatype]).extend(contents)
    return request.SerializeToString()


def good_infer_requests():
    """Return valid requests of every form: pictures, every datatype, several tensors."""
    levels, file = bytes(range(48)), io.BytesIO()
    Image.new("RGB", (5, 4), (9, 99, 199)).save(file, "PNG")
    picture = tensors.encode_bytes([file.getvalue()])
    yield infer_request(
        "large",
        ("image", "UINT8", [1, 4, 4, 3], levels),
        parameters={"gatekeeper_confidence": pb.InferParameter(string_param="0.25")},
    )
    yield infer_request(
        "large",
        ("image", "UINT8", [1, 4, 4, 3], levels),
        model_version="1",
        outputs=[{"name": "label"}],
    )
    yield infer_request("large", ("image", "UINT8", [1, 4, 4, 3], list(levels)))
    yield infer_request("large", ("image", "BYTES", [1], picture))
    for datatype in ELEMENTS:
        raw = tensors.encode_bytes([b"a", b"\xc3\xbc"]) if datatype == "BYTES" else None
        raw = raw or bytes(2 * SIZES[datatype])
        yield infer_request(datatype, ("x", datatype, [1, 2], raw))
        if datatype in FIELDS:
            values = [b"a", b""] if datatype == "BYTES" else [1, 0]
            yield infer_request(datatype, ("x", datatype, [1, 2], values))
    yield infer_request("fixed", ("x", "FP32", [2, 3], bytes(24)))
    yield infer_request("free", ("x", "FP32", [2, 0], b""))
    yield infer_request("FP64.scalar", ("x", "FP64", [], bytes(8)))
    yield infer_request("BYTES.scalar", ("x", "BYTES", [], [b"a"]))
    yield infer_request(
        "several",
        ("values", "FP32", [2, 2], bytes(16)),
        ("ids", "INT64", [2], bytes(16)),
        ("words", "BYTES", [2, 1], tensors.encode_bytes([b"", b"a"])),
        outputs=[{"name": "words_out"}, {"name": "ids_out"}],
    )


GOOD_INFER = list(good_infer_requests())
GOOD_OTHER = [
    *((call, getattr(pb, f"{call}Request")(name="large", version="1").SerializeToString())
      for call in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")),
    ("RepositoryIndex", pb.RepositoryIndexRequest(ready=True).SerializeToString()),
    ("ServerLive", b""), ("ServerReady", b""), ("ServerMetadata", b""),
]  # fmt: skip
SPANS = st.tuples(
    st.sampled_from(["set", "cut", "insert", "repeat", "end"]),
    st.integers(0, 400),
    st.integers(1, 12),
    st.binary(min_size=1, max_size=4),
)
MUTATIONS = st.lists(SPANS, min_size=1, max_size=3)


def mutated(data, steps):
    for kind, where, length, fresh in steps:
        at = where % (len(data) + 1)
        changed = {
            "set": data[:at] + fresh + data[at + len(fresh) :],
            "cut": data[:at] + data[at + length :],
            "insert": data[:at] + fresh + data[at:],
            "repeat": data[: at + length] + data[at:],
            "end": data[:at],
        }
        data = changed[kind]
    return data


MODELS = st.sampled_from(["large", "large", "several", "fixed", "free", *ELEMENTS, "small", ""])
NAMES = st.sampled_from(["image", "x", "x", "values", "ids", "", "Image", "x_out", "x" * 300, "\0"])
TYPES = st.sampled_from([*ELEMENTS, "", "uint8", "?"])
SIDES = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 4, 20_000, 2**31, 2**62, 2**63 - 1])
CONTENTS = st.sampled_from(
    [b"", bytes(3), bytes(48), b"\xff" * 48, b"\xff\xff\xff\xff", b"\x05\0\0\0abcde", b"\x89PNG"]
)
TYPED = st.sampled_from(sorted(set(FIELDS.values())))


@st.composite
def built(draw):
    """Draw a well-formed message with fields that do not fit together."""
    request = pb.ModelInferRequest(
        model_name=draw(MODELS), model_version=draw(st.sampled_from(["", "1", "2"]))
    )
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(name=draw(NAMES), datatype=draw(TYPES))
        tensor.shape.extend(draw(st.lists(SIDES, max_size=5)))
        if draw(st.booleans()):
            form = draw(TYPED)
            values = [b"x"] if form == "bytes_contents" else [1]
            getattr(tensor.contents, form).extend(values * draw(st.integers(1, 48)))
    request.raw_input_contents.extend(draw(st.lists(CONTENTS, max_size=3)))
    if draw(st.booleans()):
        request.outputs.add(name=draw(NAMES))
    return request.SerializeToString()


@st.composite
def random_values(draw):
    """Draw a valid request of random bytes, possibly with one byte too many or too few."""
    datatype, rows = draw(st.sampled_from(sorted(ELEMENTS))), draw(st.integers(1, 3))
    count = 2 * rows
    off = draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
    if datatype == "BYTES":
        texts = draw(st.lists(st.binary(max_size=3), min_size=count, max_size=count + abs(off)))
        raw = tensors.encode_bytes(texts)
    else:
        length = count * SIZES[datatype] + off
        raw = draw(st.binary(min_size=length, max_size=length))
    return infer_request(datatype, ("x", datatype, [rows, 2], raw))


def infer_call():
    mutants = st.builds(mutated, st.sampled_from(GOOD_INFER), MUTATIONS)
    return st.tuples(
        st.sampled_from([INFER, INFER, STREAM]),
        st.one_of(mutants, built(), random_values(), st.binary(max_size=60)),
    )


OTHER_CALLS = st.builds(
    lambda good, steps: (good[0], mutated(good[1], steps)), st.sampled_from(GOOD_OTHER), MUTATIONS
)
# Every branch is drawn equally often: most of them are inference.
CALLS = st.one_of(*(infer_call() for _ in range(5)), OTHER_CALLS)


class Fuzzer:
    """Sends requests, many at once, and checks that every answer is an allowed one."""

    def __init__(self, channel):
        self.seen = Counter()
        self._unary = {
            method: channel.unary_unary(path, None, None)
            for method, path in pb.METHODS.items()
            if method != STREAM
        }
        self._stream = channel.stream_stream(pb.METHODS[STREAM], None, None)

    def send(self, batch):
        streamed = [data for method, data in batch if method == STREAM]
        replies = self._stream(iter(streamed), timeout=WITHIN_S)
        calls = [
            (method, data, self._unary[method].future(data, timeout=WITHIN_S))
            for method, data in batch
            if method != STREAM
        ]
        for method, data, call in calls:
            self._check_call(method, data, call)
        answers = [pb.ModelStreamInferResponse.FromString(reply) for reply in replies]
        assert len(answers) == len(streamed)
        for data, answer in zip(streamed, answers, strict=True):
            self._check_streamed(data, answer)

    def _check_call(self, method, data, call):
        code = call.code().name
        if code == "OK":
            if method == INFER:
                check_echo(data, pb.ModelInferResponse.FromString(call.result()))
        else:
            check_text(call.details(), data)
            if code == "INTERNAL" and call.details().endswith(NOT_FINITE):
                code = "NOT_FINITE"
        assert code in ALLOWED | {"NOT_FINITE"}, f"{code}: {call.details()} for {data!r}"
        self.seen[f"{'ModelInfer' if method == INFER else 'others'} {code}"] += 1

    def _check_streamed(self, data, answer):
        if answer.error_message:
            check_text(answer.error_message, data)
            is_nan = answer.error_message.endswith(NOT_FINITE)
            assert is_nan or "failed" not in answer.error_message, f"{answer} for {data!r}"
            try:
                request_id = pb.ModelInferRequest.FromString(data).id
            except DecodeError:
                request_id = ""
            assert answer.infer_response.id == request_id
        else:
            check_echo(data, answer.infer_response)
        self.seen[f"stream {'error' if answer.error_message else 'OK'}"] += 1


def check_text(details, data):
    assert details.isprintable(), (details, data)
    assert 0 < len(details) <= 500


def check_echo(data, response):
    """Assert that an answer belongs to its request: most models return their inputs."""
    request = pb.ModelInferRequest.FromString(data)
    assert response.id == request.id
    assert response.model_name == request.model_name
    if request.model_name in ELEMENTS and request.raw_input_contents:
        assert response.raw_output_contents == request.raw_input_contents
    elif request.model_name in ELEMENTS:
        assert response.outputs[0].contents == request.inputs[0].contents


def test_no_request_stops_the_server(zoo):
    with grpc.insecure_channel(zoo.address) as channel:
        fuzzer = Fuzzer(channel)
        # The requests that are mutated below are valid.
        fuzzer.send([(INFER, data) for data in GOOD_INFER])
        fuzzer.send([(STREAM, data) for data in GOOD_INFER])
        fuzzer.send(GOOD_OTHER)
        assert set(fuzzer.seen) == {"ModelInfer OK", "stream OK", "others OK"}
        before = zoo.resident_bytes()

        @settings(
            max_examples=-(-REQUESTS // AT_ONCE),
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # the assertions show the one request of many
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(CALLS, min_size=AT_ONCE, max_size=AT_ONCE))
        def send(batch):
            fuzzer.send(batch)

        send()
        seen, growth = fuzzer.seen, zoo.resident_bytes() - before
        print(f"{sum(seen.values())} requests: {dict(sorted(seen.items()))}, {growth / 1e6:.0f} MB")
        assert sum(seen.values()) >= REQUESTS
        # Some mutations leave a request valid, most do not.
        for call in ("ModelInfer", "others"):
            for code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"):
                assert seen[f"{call} {code}"] > REQUESTS / 1_000
        assert min(seen["stream OK"], seen["stream error"]) > REQUESTS / 1_000
        fuzzer.send([(INFER, data) for data in GOOD_INFER])
        assert growth < GROWTH_BYTES
