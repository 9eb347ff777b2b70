"""Bounds of a request that are checked before anything else looks at it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tools.speller import Speller, serving, spell

from cloud_stub.backends.backend import Signature, TensorSpec, classifier_signature
from cloud_stub.errors import BadRequestError, RefusedRowsError
from cloud_stub.protocol import calls, requests
from cloud_stub.protocol.bounds import RowBounds, parse_request, request_id
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

pytestmark = pytest.mark.once

MANY = 200_000


def request(**fields):
    return pb.ModelInferRequest(model_name="m", id="7", **fields)


def typed_texts(count):
    made = request()
    made.inputs.add(name="text", datatype="BYTES", shape=[count])
    made.inputs[0].contents.bytes_contents.extend([b""] * count)
    return made


def with_parameters(count):
    made = request()
    for n in range(count):
        made.parameters[f"{n}"].bool_param = True
    return made


def with_tensor_parameters(count):
    made = request()
    made.inputs.add(name="text")
    for n in range(count):
        made.inputs[0].parameters[f"{n}"].bool_param = True
    return made


@pytest.mark.parametrize(
    "message",
    [
        with_parameters(MANY),
        with_tensor_parameters(MANY),
        request(inputs=[{}] * MANY),
        request(outputs=[{}] * MANY),
        request(raw_input_contents=[b""] * MANY),
        request(inputs=[{"shape": [1] * MANY}]),
        typed_texts(MANY),
        request(inputs=[{"contents": {"bool_contents": [True] * (17 << 20)}}]),
    ],
    ids=[
        "parameters",
        "parameters of a tensor",
        "inputs",
        "outputs",
        "raw contents",
        "axes",
        "typed texts",
        "typed numbers",
    ],
)
def test_counts_are_bounded_before_the_message_is_parsed(monkeypatch, message):
    def refuse(*_):
        raise AssertionError("it was parsed")

    monkeypatch.setattr(tensors, "parse", refuse)
    data = message.SerializeToString()
    with pytest.raises(tensors.WireError, match="in a request, got more: send raw contents"):
        asyncio.run(parse_request(data))


def test_raw_contents_are_not_copied():
    made = request(raw_input_contents=[b"abc", b"", b"d" * 1000])
    made.inputs.add(name="x", datatype="UINT8", shape=[3])
    made.parameters["p"].int64_param = 2**63 - 1
    data = made.SerializeToString()
    parsed, contents = asyncio.run(parse_request(data))
    assert [bytes(content) for content in contents] == [b"abc", b"", b"d" * 1000]
    assert all(content.obj is data for content in contents)
    assert len(parsed.raw_input_contents) == 3
    made.ClearField("raw_input_contents")
    parsed.ClearField("raw_input_contents")
    assert parsed == made
    assert request_id(data) == "7"


@pytest.mark.parametrize("more", [b"", b"\x3a", b"\x2a\x05ab"])
def test_the_id_of_a_large_malformed_request_is_found(more):
    assert request_id(request(outputs=[{}] * MANY).SerializeToString() + more) == "7"
    assert request_id(b"x" * (1 << 20)) == ""


@pytest.mark.parametrize(
    "data",
    [b"\x3a", b"\x3a\x05abc", b"\x2a\x80", b"\x0b\x0c", b"\x3f", b"\xff" * 11, b"\x2a\x01\x0b"],
)
def test_what_protobuf_would_not_read_is_refused(data):
    with pytest.raises(tensors.WireError, match=r"expected a inference\.ModelInferRequest"):
        asyncio.run(parse_request(data))
    assert request_id(data) == ""


def test_fields_of_another_kind_are_unknown():
    # A bare number where raw contents belong, then raw contents.
    parsed, contents = asyncio.run(parse_request(b"\x38\x05\x3a\x02ab"))
    assert [bytes(content) for content in contents] == [b"ab"]
    assert not parsed.inputs


def read(signature, datatype, shape, raw, **bounds):
    made = request(inputs=[{"name": signature.inputs[0].name, "datatype": datatype}])
    made.inputs[0].shape.extend(shape)
    return requests.read_inputs(made, [memoryview(raw)], signature, RowBounds(**bounds))


TEXTS = classifier_signature("text", "any")
PICTURES = classifier_signature("image", "any")
GRAPH = Signature(
    takes="tensors",
    inputs=(TensorSpec("x", "BYTES", (-1, 2)),),
    outputs=(),
    is_batched=True,
    platform="any",
)


@pytest.mark.parametrize(
    ("signature", "datatype", "shape", "raw"),
    [
        (TEXTS, "BYTES", [3], tensors.encode_bytes(["a"] * 3)),
        (PICTURES, "BYTES", [3], tensors.encode_bytes(["a"] * 3)),
        (PICTURES, "UINT8", [3, 1, 1, 3], bytes(9)),
        (GRAPH, "BYTES", [3, 2], tensors.encode_bytes(["a"] * 6)),
    ],
)
def test_rows_are_bounded(signature, datatype, shape, raw):
    with pytest.raises(BadRequestError, match="expected at most 2 rows in a call, got 3: send"):
        read(signature, datatype, shape, raw, max_rows=2)
    assert read(signature, datatype, shape, raw, max_rows=3).rows == 3


def test_texts_are_bounded_and_the_long_ones_named():
    raw = tensors.encode_bytes(["é", "ab", "abc"])
    with pytest.raises(RefusedRowsError) as caught:
        read(TEXTS, "BYTES", [3], raw, max_text_bytes=2)
    assert caught.value.reasons == {2: "expected texts of at most 2 bytes, got 3: shorten it"}
    with pytest.raises(BadRequestError, match="expected texts of at most 2 bytes in 'x', got 3"):
        read(GRAPH, "BYTES", [1, 2], tensors.encode_bytes(["abc", "a"]), max_text_bytes=2)


def test_pixels_of_arrays_are_bounded():
    with pytest.raises(BadRequestError, match="at most 5 pixels, got 2 x 3"):
        read(PICTURES, "UINT8", [1, 2, 3, 3], bytes(18), max_pixels=5)
    assert np.shape(read(PICTURES, "UINT8", [1, 2, 3, 3], bytes(18), max_pixels=6).columns["image"])


def test_arrays_far_longer_than_wide_are_refused():
    with pytest.raises(BadRequestError, match="at most 1 to 64, got 65 x 1"):
        read(PICTURES, "UINT8", [1, 65, 1, 3], bytes(195))
    assert np.shape(read(PICTURES, "UINT8", [1, 1, 64, 3], bytes(192)).columns["image"])


def test_a_refused_request_of_a_stream_keeps_its_id_and_is_not_parsed_again():
    async def scenario(served):
        large = spell("x", request_id="7") + request(outputs=[{}] * MANY).SerializeToString()
        call = served.stream(large, spell("x", request_id="8"))
        message = pb.ModelStreamInferResponse.FromString(await call.read())
        assert "expected at most 4096" in message.error_message
        assert message.infer_response.id == "7"

    serving(scenario, Speller())


def test_a_plain_call_reads_no_large_message():
    async def scenario(served):
        live = served.channel.unary_unary(pb.METHODS["ServerLive"], None, None)
        code = await live(b"\x08\x01" * (1 << 20), timeout=30).code()
        assert code.name == "INVALID_ARGUMENT"
        assert await live(b"\x08\x01" * (calls._MOST_PLAIN_BYTES // 2), timeout=30)

    serving(scenario, Speller())
