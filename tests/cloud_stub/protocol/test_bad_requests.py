"""Every wrong input to every call is refused with one line, and the server continues.

Each refusal of ModelInfer is checked in a stream as well, where the next request is answered.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from PIL import Image
from tools.graphs import ELEMENTS, FIELDS, GATHERED_ROWS, SIZES

from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

pytestmark = [pytest.mark.slow, pytest.mark.once]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MISSING = grpc.StatusCode.NOT_FOUND
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
LONGEST_DETAILS = 500
MIB = 1 << 20
HUGE = 2**63 - 1
WITHIN_S = 60
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

KINDS = {n: getattr(pb, f"{n}Request") for n in sorted({*pb.METHODS} - {"ModelStreamInfer"})}
NAMED = ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
BEYOND = {
    "INT8": ([-129, 0], [0, 128]), "INT16": ([-32769, 0], [0, 32768]),
    "UINT8": ([256, 0],), "UINT16": ([0, 65536],),
}  # fmt: skip


@pytest.fixture
def channel(zoo):
    with grpc.insecure_channel(zoo.address, UNLIMITED) as opened:
        yield opened


def request(model="large", datatype="UINT8", shape=(1, 4, 4, 3), raw=bytes(48), **fields):
    made = pb.ModelInferRequest(model_name=model, id="7")
    made.inputs.add(name=fields.pop("name", "image"), datatype=datatype, shape=shape)
    if raw is not None:
        made.raw_input_contents.append(raw)
    made.MergeFrom(pb.ModelInferRequest(**fields))
    return made


GOOD = request(id="good").SerializeToString()


def data_of(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


def call(channel, message, method="ModelInfer", **options):
    send = channel.unary_unary(pb.METHODS[method], None, None)
    return send(data_of(message), timeout=WITHIN_S, **options)


def checked(details):
    """Return an error's text, which must be one short line that a terminal can show."""
    assert details.isprintable()
    assert 0 < len(details) <= LONGEST_DETAILS
    return details


def refusal(channel, message, method="ModelInfer"):
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, message, method)
    details = checked(caught.value.details())
    if method == "ModelInfer":
        assert refused_in_stream(channel, message) == details
    return caught.value.code(), details


def refused_in_stream(channel, message):
    """Return a stream's error for a request; the next request must be answered."""
    stream = channel.stream_stream(pb.METHODS["ModelStreamInfer"], None, None)
    replies = stream(iter([data_of(message), GOOD]), timeout=WITHIN_S)
    bad, good = map(pb.ModelStreamInferResponse.FromString, replies)
    assert good.infer_response.id == "good"
    assert [output.name for output in good.infer_response.outputs] == [
        "prediction", "label", "confidence",
    ]  # fmt: skip
    assert not good.error_message
    assert not bad.infer_response.outputs
    assert bad.infer_response.id in {"", "7", "good"}
    return checked(bad.error_message)


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x0a\xff",  # a field longer than the message
        b"\xff" * 20,
        b"\x0b" * 200,  # groups in groups, never ended
        bytes(64),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_bytes_that_are_not_a_message_are_invalid(channel, method, garbage):
    code, details = refusal(channel, garbage, method)
    assert code == INVALID
    assert details.startswith(
        f"expected a inference.{method}Request, got {len(garbage)} other bytes"
    )


@pytest.mark.parametrize("method", [*NAMED, "ModelInfer"])
def test_a_truncated_message_is_invalid(channel, method):
    whole = GOOD if method == "ModelInfer" else KINDS[method](name="large").SerializeToString()
    for end in range(1, len(whole)):
        if method == "ModelInfer" and end % 5:
            continue  # there are many similar ones
        code, details = refusal(channel, whole[:end], method)
        assert code == INVALID, (end, details)


@pytest.mark.parametrize("method", [*NAMED, "ModelInfer"])
def test_a_name_that_is_not_utf8_is_invalid(channel, method):
    code, _ = refusal(channel, b"\x0a\x05lar\xffe", method)
    assert code == INVALID


@pytest.mark.parametrize("method", KINDS)
def test_an_empty_message_names_no_model(channel, method):
    if method in {"ServerLive", "ServerReady", "ServerMetadata", "ModelStatistics"}:
        assert call(channel, b"", method)
    elif method == "RepositoryIndex":
        assert b"large" in call(channel, b"", method)
    else:
        code, details = refusal(channel, b"", method)
        assert (code, "model '' is not served here" in details) == (MISSING, True)


@pytest.mark.parametrize("method", [*NAMED, "ModelInfer"])
@pytest.mark.parametrize(
    "fields",
    [
        {"name": "nobody"},
        {"name": "LARGE"},
        {"name": "large "},
        {"name": "large\n\x1b[31m\0"},
        {"name": "天气" * 5_000},
        {"name": "nobody", "version": "1"},
        {"name": "large", "version": "2"},
        {"name": "large", "version": "01"},
        {"name": "large", "version": "-1"},
        {"name": "large", "version": "\n1"},
        {"name": "large", "version": "9" * 10_000},
    ],
)
def test_an_unknown_model_or_version_is_not_found(channel, method, fields):
    if method == "ModelInfer":
        message = request(model_name="")
        message.model_name, message.model_version = fields["name"], fields.get("version", "")
    else:
        message = KINDS[method](**fields)
    code, details = refusal(channel, message, method)
    assert code == MISSING
    assert "is not served here: ask for '" in details


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "picture"}, "expected one input 'image', got picture"),
        ({"name": ""}, "expected one input 'image', got none"),
        ({"name": "image\0"}, "expected one input 'image', got image\\x00"),
        ({"name": "x" * 99_999}, "expected one input 'image', got xxx"),
        ({"datatype": "FP32"}, "expected image as UINT8 [n, height, width, 3] or BYTES [n] with"),
        ({"datatype": "FP16", "raw": bytes(96)}, "got FP16 [1, 4, 4, 3]"),
        ({"datatype": "BF16", "raw": bytes(96)}, "got BF16 [1, 4, 4, 3]"),
        ({"datatype": ""}, "expected image as UINT8"),
        ({"datatype": "x" * 99_999}, "expected image as UINT8"),
        ({"shape": ()}, "got UINT8 []"),
        ({"shape": (4, 4, 3)}, "got UINT8 [4, 4, 3]"),
        ({"shape": (1, 4, 4, 1)}, "got UINT8 [1, 4, 4, 1]"),
        ({"shape": (1,) * 300}, "got UINT8 [1, 1, 1, 1, 1, 1, 1, 1]"),
        ({"shape": (1,) * 9_999}, "expected at most 32 axes in a request, got more"),
        ({"shape": (0, 4, 4, 3), "raw": b""}, "with n >= 1, got UINT8 [0, 4, 4, 3]"),
        ({"shape": (1, 0, 4, 3), "raw": b""}, "got UINT8 [1, 0, 4, 3]"),
        ({"shape": (-1, 4, 4, 3)}, "got UINT8 [-1, 4, 4, 3]"),
        ({"shape": (-(2**63), 4, 4, 3)}, "got UINT8 [-9223372036854775808, 4, 4, 3]"),
        ({"shape": (HUGE, 4, 4, 3)}, "is too large"),
        ({"shape": (2**62, 2**62, 1, 3)}, "is too large"),
        ({"shape": (2**32, 2**32, 1, 3)}, "is too large"),  # 3 * 2^64 is 0 in 64 bits
        ({"raw": bytes(47)}, "expected 48 bytes for UINT8 [1, 4, 4, 3], got 47"),
        ({"raw": bytes(49)}, "expected 48 bytes for UINT8 [1, 4, 4, 3], got 49"),
        ({"raw": None}, "expected 48 elements, got 0"),
        ({"datatype": "BYTES", "shape": (1, 1), "raw": bytes(4)}, "got BYTES [1, 1]"),
        ({"datatype": "BYTES", "shape": (0,), "raw": b""}, "got BYTES [0]"),
        ({"datatype": "BYTES", "shape": (HUGE,), "raw": b""}, "is too large"),
        ({"datatype": "BYTES", "shape": (9,), "raw": b""}, "got only 0 bytes"),
        ({"datatype": "BYTES", "shape": (2**40,), "raw": b""}, "at most 65536 rows in a call"),
        ({"shape": (65_537, 1, 1, 3)}, "expected at most 65536 rows in a call, got 65537: send"),
        ({"shape": (1, 8_192, 4_097, 3)}, "at most 33554432 pixels, got 8192 x 4097"),
        ({"datatype": "BYTES", "shape": (1,), "raw": b"\xff\0\0\0x"}, "claims 255 bytes"),
        ({"datatype": "BYTES", "shape": (1,), "raw": b"\0\0\0\0x"}, "1 bytes follow"),
        ({"outputs": [{"name": "logits"}]}, "among prediction, label, confidence, each once"),
        ({"outputs": [{"name": ""}]}, "expected requested outputs among"),
        ({"outputs": [{"name": "label"}] * 2}, "each once, got label, label"),
        ({"outputs": [{"name": "label"}] * 4_000}, "each once, got label, label"),
        ({"inputs": [{"name": "image"}]}, "expected one input 'image', got image, image"),
        ({"inputs": [{"name": "image"}] * 4_000}, "expected one input 'image', got image, image"),
        ({"raw_input_contents": [b""]}, "expected raw contents for each of 1 tensors, got 2"),
        ({"raw_input_contents": [b""] * 4_000}, "for each of 1 tensors, got 4001"),
        ({"raw_input_contents": [b""] * 10_000}, "at most 4096 parameters and tensors"),
    ],
)
def test_a_mistake_in_a_request_of_pictures_is_named(channel, fields, why):
    code, details = refusal(channel, request(**fields))
    assert code == INVALID
    assert why in details


def test_a_missing_input_is_named(channel):
    code, details = refusal(channel, pb.ModelInferRequest(model_name="large"))
    assert (code, details) == (INVALID, "expected one input 'image', got none")


def tensor(datatype, shape=(1, 2), raw=b"", field=None, values=(), *, name="x"):
    """Return a request to the model of a datatype."""
    made = request(datatype, datatype, shape, raw, name=name)
    if field is not None:
        getattr(made.inputs[0].contents, field).extend(values)
    return made


def valid(datatype):
    """Return raw contents of two elements."""
    return bytes(8) if datatype == "BYTES" else bytes(2 * SIZES[datatype])


def wrong_descriptions(datatype):
    """Yield requests with wrong names, types or shapes, and a part of the message for each."""
    raw, expected = valid(datatype), f"expected the input 'x' as {datatype} [any, 2], got "
    for name in ("", "X", "x_out", "x\n"):
        yield tensor(datatype, raw=raw, name=name), "expected one input 'x', got "
    for other in ("", datatype.lower(), f"{datatype} ", "INT128", *ELEMENTS):
        if other != datatype:
            yield request(datatype, other, (1, 2), raw, name="x"), f"{expected}{other} [1, 2]"
    for shape in ((), (2,), (1, 1, 2), (1, 3), (1, -2), (1, HUGE), (2,) * 33):
        yield tensor(datatype, shape, raw), f"{expected}{datatype} {list(shape[:8])}"
    for rows in (-1, -(2**63)):
        yield (
            tensor(datatype, (rows, 2), raw),
            f"expected sizes of 0 or more, got shape [{rows}, 2]",
        )
    for rows in (HUGE, 2**63 - 4, 2**60):
        yield tensor(datatype, (rows, 2), raw), f"shape [{rows}, 2] is too large"
    yield (
        tensor(datatype, (0, 2)),
        "expected inputs with the same number of rows, at least 1, got 0",
    )


def wrong_contents(datatype):
    """Yield requests with contents that do not fit their description, and a part of the message."""
    raw, mine = valid(datatype), FIELDS.get(datatype)
    for other in (b"", raw[:-1], raw + b"\0", raw * 2):
        yield tensor(datatype, raw=other), "x': " if datatype == "BYTES" else f"got {len(other)}"
    yield tensor(datatype, raw=None), "expected 2 elements, got 0" if mine else "in typed contents"
    for field in sorted(set(FIELDS.values())):
        values = [b"a", b"b"] if field == "bytes_contents" else [1, 1]
        yield tensor(datatype, raw=raw, field=field, values=values), "got both: send one"
        if field != mine:
            why = f"expected {datatype} in {mine}, got {field}" if mine else "in typed contents"
            yield tensor(datatype, raw=None, field=field, values=values), why
            continue
        for count in (1, 3):
            few = (values * 2)[:count]
            yield tensor(datatype, raw=None, field=field, values=few), f"2 elements, got {count}"
    for values in BEYOND.get(datatype, ()):
        why = f"expected values of {datatype.lower()}, got {min(values)} to {max(values)}"
        yield tensor(datatype, raw=None, field=mine, values=values), why


def wrong_values():
    """Yield requests with values outside their datatype, and a part of the message for each."""
    yield tensor("BOOL", raw=b"\1\2"), "expected BOOL as bytes of 0 or 1, got 2"
    not_text = "expected BYTES in UTF-8"
    yield tensor("BYTES", raw=b"\1\0\0\0\xff\0\0\0\0"), not_text
    yield tensor("BYTES", raw=None, field="bytes_contents", values=[b"", b"\xc3"]), not_text
    yield tensor("BYTES", raw=b"\xff\xff\xff\xff" + bytes(4)), "claims 4294967295 bytes, 4 are"
    yield tensor("BYTES", raw=b"\5\0\0\0" + bytes(4)), "claims 5 bytes, 4 are left"


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_every_mistake_in_a_tensor_of_every_datatype_is_named(channel, datatype):
    cases = [*wrong_descriptions(datatype), *wrong_contents(datatype)]
    cases += [case for case in wrong_values() if case[0].model_name == datatype]
    for message, why in cases:
        code, details = refusal(channel, message)
        assert code == INVALID, (message, details)
        assert " ".join(why.split()) in details, message
    assert len(cases) > 40


def several(**changes):
    """Return a request to the model of three inputs, valid except for the changes."""
    rows = {"values": 1, "ids": 1, "words": 1} | changes.pop("rows", {})
    made = pb.ModelInferRequest(model_name="several", id="7")
    made.inputs.add(name="values", datatype="FP32", shape=[rows["values"], 2])
    made.inputs.add(name="ids", datatype="INT64", shape=[rows["ids"]])
    made.inputs.add(name="words", datatype="BYTES", shape=[rows["words"], 1])
    contents = [bytes(8 * rows[name]) for name in ("values", "ids")] + [bytes(4 * rows["words"])]
    made.raw_input_contents.extend(contents[: changes.pop("contents", 3)])
    made.MergeFrom(pb.ModelInferRequest(**changes))
    return made


def test_the_same_requests_without_the_mistakes_are_answered(channel):
    assert call(channel, GOOD)
    assert call(channel, several())
    for datatype in ELEMENTS:
        assert call(channel, tensor(datatype, raw=valid(datatype)))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            several(rows={"ids": 2}),
            "expected inputs with the same number of rows, at least 1, got 1, 2",
        ),
        (several(rows={"values": 0, "ids": 0, "words": 0}), "at least 1, got 0"),
        (several(contents=0), "tensor 'values': expected 2 elements, got 0"),
        (several(contents=1), "expected raw contents for each of 3 tensors, got 1"),
        (several(contents=2), "expected raw contents for each of 3 tensors, got 2"),
        (several(raw_input_contents=[b""]), "for each of 3 tensors, got 4"),
        (several(inputs=[{"name": "ids"}]), "expected the inputs values, ids, words, each once"),
        (several(inputs=[{"name": "more"}]), "got values, ids, words, more"),
        (several(inputs=[{"name": "x"}] * 4_000), "each once, got values, ids, words, x, x"),
        (several(outputs=[{"name": "ids"}]), "among values_out, ids_out, words_out, each once"),
        (
            pb.ModelInferRequest(model_name="several", inputs=[{"name": "ids"}] * 3),
            "each once, got ids, ids, ids",
        ),
        (pb.ModelInferRequest(model_name="several"), "each once, got none"),
    ],
)
def test_a_mistake_in_a_request_of_several_inputs_is_named(channel, message, why):
    code, details = refusal(channel, message)
    assert code == INVALID
    assert why in details


@pytest.mark.parametrize("shape", [(2**59, 0), (2**20 + 1, 0), (1, 0, 1)])
def test_a_request_cannot_claim_millions_of_empty_rows(channel, shape):
    code, details = refusal(channel, request("free", "FP32", shape, b"", name="x"))
    assert code == INVALID
    assert f"{list(shape)}" in details
    assert call(channel, pb.ModelStatisticsRequest(name="free"), "ModelStatistics")


def test_a_wrong_call_in_a_batch_fails_alone(zoo):
    # Together they fill a batch, otherwise they would wait for 50 s; larger ones would be cut.
    counts, wrong = [4, 4, 4, 4], 2
    assert sum(counts) == GATHERED_ROWS

    def send(caller):
        texts = [b"\xff" if caller == wrong else b"%d" % caller] * (2 * counts[caller])
        raw = tensors.encode_bytes(texts)
        message = request("BYTES.gathered", "BYTES", (counts[caller], 2), raw, name="x")
        with grpc.insecure_channel(zoo.address) as channel:
            try:
                response = pb.ModelInferResponse.FromString(call(channel, message))
            except grpc.RpcError as error:
                return error.code()
        return response.raw_output_contents[0] == raw

    with ThreadPoolExecutor(len(counts)) as callers:
        assert list(callers.map(send, range(4))) == [True, True, INVALID, True]


NANS = {"FP16": b"\1\x7c", "BF16": b"\x81\xff", "FP32": b"\1\0\x80\x7f", "FP64": b"\xff" * 8}


@pytest.mark.parametrize("datatype", NANS)
def test_an_output_that_is_not_a_number_fails_its_call(channel, datatype):
    nan = NANS[datatype]
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, tensor(datatype, raw=bytes(len(nan)) + nan))
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert caught.value.details() == "the model failed: its x_out is not a finite number"


@pytest.mark.parametrize("text", ["nan", "inf,-inf", "", ",,,", "1e999", "x" * 9_999, "0," * 9_999])
def test_invalid_values_of_known_parameters_are_not_refused(channel, text):
    message = request()
    for name in ("gatekeeper_confidence", "gatekeeper_threshold", "gatekeeper_contract", text[:9]):
        message.parameters[name].string_param = text
    message.parameters["gatekeeper_version"].int64_param = HUGE
    assert call(channel, message)


def test_a_message_over_the_limit_is_refused(zoo, channel):
    message = request(raw=bytes(65 * MIB), shape=(1, 1, 65 * MIB // 3, 3))
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, message)
    assert caught.value.code() == EXHAUSTED
    stream = channel.stream_stream(pb.METHODS["ModelStreamInfer"], None, None)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([data_of(message)]), timeout=WITHIN_S))
    assert caught.value.code() == EXHAUSTED
    assert call(channel, GOOD)


def test_a_message_that_decompresses_over_the_limit_is_refused(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0", "--max-message-mib", "8")
    with grpc.insecure_channel(running.address, UNLIMITED) as channel:
        call(channel, GOOD)
        before = running.peak_bytes()
        with pytest.raises(grpc.RpcError) as caught:
            # Less than 100 KiB on the wire.
            call(channel, request(raw=bytes(80 * MIB)), compression=grpc.Compression.Gzip)
        assert caught.value.code() == EXHAUSTED
        assert running.peak_bytes() - before < 40 * MIB
        assert call(channel, GOOD)


def encoded(*pictures, **fields):
    raw = tensors.encode_bytes(pictures)
    return request("large", "BYTES", (len(pictures),), raw, **fields)


def picture(form="PNG", mode="L", size=(4, 4), level=255):
    file = io.BytesIO()
    Image.new(mode, size, level).save(file, form)
    return file.getvalue()


def png(width, height):
    """Return a black picture of 1 bit per pixel, without ever holding it in memory."""
    pack = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in (*chunks, (b"IEND", b""))
    )


def with_size(file, at, letters, *sides):
    """Return a file with another size in its header."""
    fields = struct.pack(letters, *sides)
    return file[:at] + fields + file[at + len(fields) :]


def test_picture_bombs_are_refused_before_they_are_decoded(bundle, launch):
    running = launch("--bundle", str(bundle), "--port", "0")
    bomb = png(12_000, 12_000)  # 432 MB of RGB
    assert len(bomb) < MIB
    with grpc.insecure_channel(running.address) as channel:
        call(channel, encoded(picture()))
        before = running.peak_bytes()
        for file in (
            bomb,
            png(30_000, 30_000),
            with_size(picture("GIF"), 6, "<HH", 65_535, 65_535),
            with_size(picture("BMP"), 18, "<ii", 2**31 - 1, 2**31 - 1),
        ):
            for message in (encoded(file), encoded(picture(), file)):
                code, details = refusal(channel, message)
                assert (code, "pixels, picture" in details) == (INVALID, True), details
        code, details = refusal(channel, encoded(bomb))
        assert code == INVALID
        assert (
            "expected at most 33554432 pixels, picture 0 has 12000 x 12000 and was not" in details
        )
        assert running.peak_bytes() - before < 100 * MIB
        assert call(channel, encoded(picture()))


def test_pictures_are_counted_together(channel):
    code, details = refusal(channel, encoded(*[png(8_000, 3_000)] * 3))
    assert code == INVALID
    assert "expected pictures of at most 67108864 pixels together, got 72000000" in details


SECRET = b"the card's number is 4242 4242"


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"x",
        SECRET,
        SECRET * 9_999,
        picture("PNG")[:40],
        picture("PNG", size=(99, 99))[:-30],
        picture("JPEG")[:200],
        picture("GIF")[:8],
        picture("BMP")[:20],
        picture("PNG")[:8] + SECRET,
        b"\x89PNG\r\n\x1a\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        picture("TIFF", "F", level=1.0),
        picture("TIFF", "I", level=1),
        picture("PPM"),
        picture("ICO", size=(16, 16)),
    ],
)
def test_a_file_that_is_not_a_picture_is_named_but_not_repeated(channel, file):
    code, details = refusal(channel, encoded(picture(), file))
    assert code == INVALID
    assert "picture 1" in details
    assert "4242" not in details
    assert "0x" not in details  # an address in the server's memory


@pytest.mark.parametrize(
    "file",
    [
        picture(),
        picture(mode="1", level=1),
        picture(mode="LA", level=(255, 0)),
        picture(mode="RGB", level=(255, 255, 255)),
        picture(mode="RGBA", level=(255, 255, 255, 0)),
        picture("GIF"),  # with a palette
        picture(mode="I;16", level=65_535),
        picture("TIFF", "I;16", level=65_535),
        picture("JPEG", "CMYK", level=(0, 0, 0, 0)),
        picture("TIFF", "CMYK", level=(0, 0, 0, 0)),
        picture("TIFF", "LAB", level=(255, 128, 128)),
        picture("WEBP", "RGB", level=(255, 255, 255)),
        picture("BMP", size=(1, 1)),
        picture(size=(1, 64)),
    ],
)
def test_pictures_of_every_usual_kind_are_answered(channel, file):
    response = pb.ModelInferResponse.FromString(call(channel, encoded(file, picture(level=0))))
    outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
    assert outputs["label"].tolist() == [b"bright", b"dark"]


def test_an_answer_over_the_limit_fails_only_its_call(channel):
    # As many bytes as a message may have; the answer adds some.
    room = 64 * MIB - len(data_of(request("free", "FP32", (1, 2**24), b"", name="x")))
    width = (room - 8) // 4
    message = request("free", "FP32", (1, width), bytes(4 * width), name="x")
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, message)
    assert caught.value.code() == EXHAUSTED
    assert call(channel, GOOD)


def texts(count, *, more=0):
    return request("words", "BYTES", (1, count), bytes(4 * count + more), name="x")


def numbers(count):
    return tensor("UINT8", (count // 2, 2), None, "uint_contents", bytes(count))


# The texts are wrong at their end: a graph that copies them would delay everything.
@pytest.mark.parametrize(
    "message", [texts(4 << 20, more=1), numbers(12 << 20)], ids=["texts", "numbers"]
)
def test_a_call_that_takes_long_to_read_does_not_delay_the_others(zoo, channel, message):
    waits, done = [], threading.Event()

    def measure():
        with grpc.insecure_channel(zoo.address) as other:
            while not done.wait(0.01):
                begin = time.perf_counter()
                call(other, b"", "ServerLive")
                waits.append(time.perf_counter() - begin)

    measuring = threading.Thread(target=measure)
    measuring.start()
    begin = time.perf_counter()
    try:
        with contextlib.suppress(grpc.RpcError):
            call(channel, message)
    finally:
        took_s = time.perf_counter() - begin
        done.set()
        measuring.join()
    # If the event loop read it, the others would wait for over half of its time.
    assert max(waits) < took_s / 4


def test_more_texts_than_the_memory_limit_allows_are_refused(channel):
    code, details = refusal(channel, texts(12 << 20))
    assert code == EXHAUSTED
    assert "expected a call of at most 1024 MiB, got 1248.0" in details


def test_a_long_list_of_empty_texts_is_answered(channel):
    message = request("BYTES", "BYTES", (9_999, 2), bytes(8 * 9_999), name="x")
    response = pb.ModelInferResponse.FromString(call(channel, message))
    assert np.prod(response.outputs[0].shape) == 2 * 9_999
