"""Tensors survive the wire, and invalid messages raise nothing but a WireError."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from tools.graphs import ELEMENTS, FIELDS

from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors
from edge_runtime.wire.tensors import WireError

NAMES = [*tensors.DTYPES, "BF16", "BYTES", "", "uint8", "FP8"]
SHAPES = st.lists(
    st.one_of(st.integers(-2, 5), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)])), max_size=5
)
ARRAYS = st.sampled_from(list(tensors.DTYPES.values())).flatmap(
    lambda dtype: st_np.arrays(dtype, st_np.array_shapes(min_dims=0, min_side=0, max_side=4))
)


@given(ARRAYS)
def test_array_comes_back_equal(array):
    raw = bytes(tensors.encode_array(array))
    back = tensors.decode_array(raw, tensors.datatype_of(array), array.shape)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def objects(values, shape):
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


SMALL_SHAPES = st_np.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
BYTES_ARRAYS = SMALL_SHAPES.flatmap(
    lambda shape: st.lists(
        st.binary(max_size=9), min_size=math.prod(shape), max_size=math.prod(shape)
    ).map(lambda values: objects(values, shape))
)
BF16_ARRAYS = st_np.arrays(np.uint16, SMALL_SHAPES)  # bit patterns


@st.composite
def any_tensors(draw, datatypes):
    """Draw name -> (datatype, array); a bfloat16 as its bit patterns."""
    found = {}
    for number in range(draw(st.integers(1, 4))):
        datatype = draw(st.sampled_from(datatypes))
        if datatype == "BYTES":
            array = draw(BYTES_ARRAYS)
        elif datatype == "BF16":
            array = draw(BF16_ARRAYS)
        else:
            array = draw(st_np.arrays(tensors.DTYPES[datatype], SMALL_SHAPES))
        found[f"x{number}"] = datatype, array
    return found


def described(given_tensors):
    request = pb.ModelInferRequest(id="7")
    for name, (datatype, array) in given_tensors.items():
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    return request


def assert_same(came, datatype, sent):
    """Assert that an array is the one that was sent, in type, shape and every bit."""
    if datatype == "BF16":
        assert came.dtype == np.float32
        # A bfloat16 is the upper half of a float32.
        came = (came.view(np.uint32) >> 16).astype(np.uint16)
    assert came.dtype == sent.dtype
    assert came.shape == sent.shape
    assert (
        came.tolist() == sent.tolist() if datatype == "BYTES" else came.tobytes() == sent.tobytes()
    )


@given(any_tensors([*tensors.DTYPES, "BF16", "BYTES"]))
def test_tensors_of_every_datatype_come_back_from_raw_contents(sent):
    contents = [
        tensors.encode_bytes(array.flat) if datatype == "BYTES" else tensors.encode_array(array)
        for datatype, array in sent.values()
    ]
    data = tensors.append_raw(described(sent), contents)
    request = tensors.parse(pb.ModelInferRequest, data)
    came = tensors.decode_tensors(request.inputs, request.raw_input_contents)
    assert request.id == "7"
    assert list(came) == list(sent)
    for name, (datatype, array) in sent.items():
        assert_same(came[name], datatype, array)


@given(any_tensors(sorted({*tensors.DTYPES, "BYTES"} - tensors.RAW_ONLY)))
def test_tensors_of_every_datatype_come_back_from_typed_contents(sent):
    request = described(sent)
    for tensor, (datatype, array) in zip(request.inputs, sent.values(), strict=True):
        # A NaN's payload is lost on its way through a Python float.
        if array.dtype.kind == "f":
            array[np.isnan(array)] = np.nan
        tensors.fill_typed(tensor.contents, datatype, array)
    request = tensors.parse(pb.ModelInferRequest, request.SerializeToString())
    came = tensors.decode_tensors(request.inputs, request.raw_input_contents)
    assert list(came) == list(sent)
    for name, (datatype, array) in sent.items():
        assert_same(came[name], datatype, array)


def test_every_datatype_has_its_field_or_is_raw_only():
    assert {*tensors.DTYPES, "BF16", "BYTES"} == {*FIELDS, *tensors.RAW_ONLY} == {*ELEMENTS}
    for datatype, field in FIELDS.items():
        contents = pb.InferTensorContents()
        value = b"a" if datatype == "BYTES" else 1
        dtype = object if datatype == "BYTES" else tensors.DTYPES[datatype]
        tensors.fill_typed(contents, datatype, np.array([value], dtype))
        assert [(one.name, list(values)) for one, values in contents.ListFields()] == [
            (field, [value])
        ]


RESPONSES = st.builds(
    lambda request_id, raw, texts: pb.ModelInferResponse(
        id=request_id,
        raw_output_contents=raw,
        outputs=[{"name": "x", "contents": {"bytes_contents": texts}}],
    ),
    st.text(max_size=200),
    st.lists(st.binary(max_size=300), max_size=3),
    st.lists(st.binary(max_size=9), max_size=3),
)


@given(RESPONSES)
def test_wrapped_message_reads_like_a_set_one(response):
    kind = pb.ModelStreamInferResponse
    data = tensors.wrap(kind, "infer_response", response.SerializeToString())
    assert tensors.parse(kind, data) == kind(infer_response=response)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 16_380, 16_384, 2**21, 2**21 + 1])
def test_message_of_any_length_is_wrapped(size):
    kind, inner = (
        pb.ModelStreamInferResponse,
        pb.ModelInferResponse(raw_output_contents=[bytes(size)]),
    )
    data = tensors.wrap(kind, "infer_response", inner.SerializeToString())
    assert kind.FromString(data).infer_response == inner


@given(st.lists(st.binary(max_size=300)))
def test_byte_strings_come_back_equal(values):
    assert tensors.decode_bytes(tensors.encode_bytes(values), len(values)) == values


@given(st.binary(max_size=64), st.sampled_from(NAMES), SHAPES)
def test_garbage_contents_raise_nothing_but_a_wire_error(raw, datatype, shape):
    with contextlib.suppress(WireError):
        tensors.decode_array(raw, datatype, shape)
    with contextlib.suppress(WireError):
        tensors.decode_bytes(raw, tensors.element_count(shape))


@given(st.binary(max_size=200))
def test_garbage_messages_raise_nothing_but_a_wire_error(data):
    with contextlib.suppress(WireError):
        request = tensors.parse(pb.ModelInferRequest, data)
        tensors.decode_tensors(request.inputs, request.raw_input_contents)


@given(
    st.sampled_from(NAMES),
    SHAPES,
    st.one_of(st.none(), st.lists(st.binary(max_size=20), max_size=2)),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
    st.lists(st.binary(max_size=5), max_size=3),
)
def test_garbage_tensors_raise_nothing_but_a_wire_error(datatype, shape, raw, numbers, texts):
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype, shape=shape)
    tensor.contents.int_contents.extend(numbers)
    tensor.contents.bytes_contents.extend(texts)
    with contextlib.suppress(WireError):
        tensors.decode_tensors([tensor], raw or [])


def test_contents_are_little_endian_and_row_by_row():
    array = np.array([[1, 2], [3, 4]], ">i2").T
    assert bytes(tensors.encode_array(array)) == bytes([1, 0, 3, 0, 2, 0, 4, 0])


def test_byte_string_is_preceded_by_its_length():
    assert tensors.encode_bytes(["hi", b""]) == b"\x02\0\0\0hi\0\0\0\0"


def test_contiguous_array_is_not_copied():
    array = np.zeros((2, 3), np.float32)
    view = tensors.encode_array(array)
    array[0, 0] = 1.0
    assert bytes(view[:4]) == b"\0\0\x80\x3f"


def test_bfloat16_is_widened():
    # 0x3FC0 is sign 0, exponent 127, mantissa 0.5: 1.5. 0xC000 is -2.
    array = tensors.decode_array(b"\xc0\x3f\x00\xc0", "BF16", [2])
    assert array.dtype == np.float32
    assert array.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("raw", "datatype", "shape"),
    [
        (b"123", "FP32", [1]),
        (b"12345", "FP32", [1]),
        (b"1", "UINT8", [-1]),
        (b"", "UINT8", [0, -1]),
        (b"", "UINT8", [2**40, 2**40]),
        (b"", "UINT8", [0, 2**62]),
        (b"", "UINT8", [1] * 65),
        (b"1", "uint8", [1]),
        (b"1", "BYTES", [1]),
        (b"\2", "BOOL", [1]),
        (b"\0\xff", "BOOL", [1, 2]),
    ],
)
def test_contents_that_do_not_fit_are_refused(raw, datatype, shape):
    with pytest.raises(WireError):
        tensors.decode_array(raw, datatype, shape)


@pytest.mark.parametrize(
    ("raw", "count", "why"),
    [
        (b"\x05\0\0\0abc", 1, "claims 5 bytes, 3 are left"),
        (b"\xff\xff\xff\xffabc", 1, "claims 4294967295 bytes"),
        (b"\x01\0\0\0ab", 1, "1 bytes follow"),
        (b"\x04\0\0\0abcd", 2, "expected 2 BYTES elements, got 1"),
        (b"\0\0\0\0", 2**60, "got only 4 bytes"),
        (b"\x01\0\0\0a", 0, "5 bytes follow"),
    ],
)
def test_lying_byte_string_lengths_are_refused(raw, count, why):
    with pytest.raises(WireError, match=why):
        tensors.decode_bytes(raw, count)


@pytest.mark.parametrize("dtype", [np.complex64, np.longdouble, object, "U3", "datetime64[s]"])
def test_types_that_the_protocol_lacks_are_refused(dtype):
    with pytest.raises(WireError, match="expected an array of"):
        tensors.encode_array(np.zeros(1, dtype))


def _tensor(datatype, shape, **contents):
    return pb.ModelInferRequest.InferInputTensor(
        name="x", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )


@pytest.mark.parametrize(
    ("datatype", "contents", "expected"),
    [
        ("BOOL", {"bool_contents": [True, False]}, np.array([True, False])),
        ("INT8", {"int_contents": [-128, 127]}, np.array([-128, 127], np.int8)),
        ("UINT32", {"uint_contents": [0, 2**32 - 1]}, np.array([0, 2**32 - 1], np.uint32)),
        ("INT64", {"int64_contents": [-1, 2]}, np.array([-1, 2], np.int64)),
        ("UINT64", {"uint64_contents": [1, 2**64 - 1]}, np.array([1, 2**64 - 1], np.uint64)),
        ("FP32", {"fp32_contents": [0.5, np.inf]}, np.array([0.5, np.inf], np.float32)),
        ("FP64", {"fp64_contents": [0.1, 0]}, np.array([0.1, 0])),
        ("BYTES", {"bytes_contents": [b"a", b""]}, np.array([b"a", b""], object)),
    ],
)
def test_typed_contents_are_read(datatype, contents, expected):
    found = tensors.decode_tensors([_tensor(datatype, [2], **contents)], [])["x"]
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (_tensor("UINT8", [1], uint_contents=[256]), "expected values of uint8"),
        (_tensor("INT16", [1], int_contents=[-32769]), "expected values of int16"),
        (_tensor("UINT8", [2], uint_contents=[1]), "expected 2 elements, got 1"),
        (_tensor("UINT8", [1], int_contents=[1]), "in uint_contents, got int_contents"),
        (_tensor("FP16", [1], fp32_contents=[1]), "expected a datatype"),
        (_tensor("UINT8", [1]), "expected 1 elements, got 0"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(tensor, why):
    with pytest.raises(WireError, match=why):
        tensors.decode_tensors([tensor], [])


def test_raw_beside_typed_contents_is_refused():
    with pytest.raises(WireError, match="got both"):
        tensors.decode_tensors([_tensor("UINT8", [1], uint_contents=[1])], [b"1"])


def test_an_empty_message_of_typed_contents_next_to_raw_ones_is_ignored():
    # What MLServer sends, as a server and as a client.
    assert tensors.decode_tensors([_tensor("UINT8", [1])], [b"1"])["x"].tolist() == [49]


def test_name_that_comes_twice_is_refused():
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="UINT8", shape=[1])
    with pytest.raises(WireError, match="came twice"):
        tensors.decode_tensors([tensor, tensor], [b"1", b"1"])


def test_too_few_raw_contents_are_refused():
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="UINT8", shape=[1])
    with pytest.raises(WireError, match="each of 1 tensors, got 2"):
        tensors.decode_tensors([tensor], [b"1", b"1"])


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 300_000])
def test_appended_contents_read_like_set_ones(size):
    content = bytes(size)
    expected = pb.ModelInferRequest(id="7", raw_input_contents=[content, b"x"])
    data = tensors.append_raw(pb.ModelInferRequest(id="7"), [content, b"x"])
    assert pb.ModelInferRequest.FromString(data) == expected
    response = pb.ModelInferResponse(id="7", raw_output_contents=[content])
    data = tensors.append_raw(pb.ModelInferResponse(id="7"), [memoryview(content)])
    assert pb.ModelInferResponse.FromString(data) == response
