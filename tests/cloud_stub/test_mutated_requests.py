"""Twenty thousand requests that nobody would send on purpose, and a server that lives on."""

from __future__ import annotations

import io
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

pytestmark = pytest.mark.slow

REQUESTS = 20_000
AT_ONCE = 40  # under the server's queue limit, so that no refusal is for want of room
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
GROWTH_BYTES = 400 << 20


def good_requests():
    """Return one valid request of each form, as bytes."""
    raw = pb.ModelInferRequest(model_name="large", id="1")
    raw.inputs.add(name="image", datatype="UINT8", shape=[1, 4, 4, 3])
    raw.raw_input_contents.append(bytes(range(48)))
    raw.parameters["gatekeeper_confidence"].string_param = "0.25"
    typed = pb.ModelInferRequest(model_name="large", model_version="1")
    typed.inputs.add(name="image", datatype="UINT8", shape=[1, 4, 4, 3])
    typed.inputs[0].contents.uint_contents.extend(range(48))
    typed.outputs.add(name="label")
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (9, 99, 199)).save(file, "PNG")
    encoded = pb.ModelInferRequest(model_name="large")
    encoded.inputs.add(name="image", datatype="BYTES", shape=[1])
    encoded.raw_input_contents.append(tensors.encode_bytes([file.getvalue()]))
    return [request.SerializeToString() for request in (raw, typed, encoded)]


GOOD = good_requests()
SPANS = st.tuples(
    st.sampled_from(["set", "cut", "insert", "repeat", "end"]),
    st.integers(0, 400),
    st.integers(1, 12),
    st.binary(min_size=1, max_size=4),
)


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


NAMES = st.sampled_from(["image", "", "Image", "prediction", "x" * 300, "\0"])
TYPES = st.sampled_from(
    ["UINT8", "BYTES", "FP16", "BF16", "FP32", "FP64", "BOOL", "INT64", "UINT64", "", "uint8", "?"]
)
SIDES = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 4, 20_000, 2**31, 2**62, 2**63 - 1])
CONTENTS = st.sampled_from(
    [b"", bytes(3), bytes(48), b"\xff" * 48, b"\xff\xff\xff\xff", b"\x05\0\0\0abcde", b"\x89PNG"]
)
TYPED = st.sampled_from(
    ["bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"],
)


@st.composite
def built(draw):
    """Draw a well-formed message whose fields make no sense together."""
    request = pb.ModelInferRequest(
        model_name=draw(st.sampled_from(["large", "large", "large", "small", ""])),
        model_version=draw(st.sampled_from(["", "1", "2"])),
    )
    for _ in range(draw(st.integers(0, 2))):
        tensor = request.inputs.add(name=draw(NAMES), datatype=draw(TYPES))
        tensor.shape.extend(draw(st.lists(SIDES, max_size=5)))
        if draw(st.booleans()):
            form = draw(TYPED)
            values = [b"x"] if form == "bytes" else [1]
            getattr(tensor.contents, f"{form}_contents").extend(values * draw(st.integers(1, 48)))
    request.raw_input_contents.extend(draw(st.lists(CONTENTS, max_size=2)))
    if draw(st.booleans()):
        request.outputs.add(name=draw(NAMES))
    return request.SerializeToString()


MUTATED = st.builds(mutated, st.sampled_from(GOOD), st.lists(SPANS, min_size=1, max_size=3))


def resident_bytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_no_request_fails_the_server(server, channel):
    infer = channel.unary_unary(pb.METHODS["ModelInfer"], None, None)
    for data in GOOD:
        infer(data, timeout=20)  # what is mutated below is right to begin with
    before = resident_bytes(server.process)
    seen = {}

    @settings(
        max_examples=REQUESTS // AT_ONCE,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.one_of(MUTATED, built()), min_size=AT_ONCE, max_size=AT_ONCE))
    def send(batch):
        calls = [infer.future(data, timeout=20) for data in batch]
        for data, call in zip(batch, calls, strict=True):
            code = call.code()
            assert code in ALLOWED, f"{code}: {call.details()} for {data!r}"
            seen[code] = seen.get(code, 0) + 1

    send()
    assert sum(seen.values()) >= REQUESTS
    # Some mutations leave a request in order, most do not.
    assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= set(seen)
    assert infer(GOOD[0], timeout=20)
    assert resident_bytes(server.process) - before < GROWTH_BYTES
