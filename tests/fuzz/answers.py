"""Fuzzes the readers of answers and requests: whatever comes, a true result or one of our errors.

Not a part of CI. In an environment of its own, from the repository root:

    pip install atheris numpy protobuf
    PYTHONPATH=. python tests/fuzz/answers.py -max_total_time=600 -timeout=10 -rss_limit_mb=2048

An input is either the bytes of a message, or instructions to build one that is nearly right.
"""

import sys

import atheris

with atheris.instrument_imports(include=["edge_runtime.wire", "edge_runtime.files"]):
    import numpy as np

    from edge_runtime.errors import CloudProtocolError, SettingError
    from edge_runtime.files import one_line
    from edge_runtime.wire import messages as pb
    from edge_runtime.wire import tensors
    from edge_runtime.wire.address import join_address, split_address
    from edge_runtime.wire.answers import AnswerReader, TextAnswerReader

LABELS = ("cat", "dög", "")
READERS = [
    AnswerReader.of(LABELS, output=None, reduce=None, foreign_labels=None),
    AnswerReader.of(LABELS, output="label", reduce=None, foreign_labels=LABELS[::-1]),
    AnswerReader.of(LABELS, output="prediction", reduce=None, foreign_labels=None),
    AnswerReader.of(LABELS, output="scores", reduce="argmax", foreign_labels=None),
    TextAnswerReader(None),
    TextAnswerReader("label"),
]
NAMES = ["prediction", "label", "confidence", "scores", "text", "other", ""]
TYPES = [*tensors.DTYPES, tensors.BF16, tensors.BYTES, "FP8", ""]
USUAL = {"prediction": "INT64", "label": "BYTES", "confidence": "FP32", "text": "BYTES"}
WORDS = [*LABELS, "bird", "\x1b[2J"]
FIELDS = ["bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"]


def _shape(data, rows):
    if data.ConsumeBool():
        return [rows] if data.ConsumeBool() else [rows, 1]
    sizes = [0, 1, rows, -1, 2**31, 2**62, -(2**63), 3]
    return [data.PickValueInList(sizes) for _ in range(data.ConsumeIntInRange(0, 34))]


def _raw(data, datatype, rows, *, is_right):
    if not is_right and data.ConsumeBool():
        return data.ConsumeBytes(data.ConsumeIntInRange(0, 64))
    if datatype == tensors.BYTES:
        return tensors.encode_bytes(data.PickValueInList(WORDS) for _ in range(rows))
    size = tensors.DTYPES.get(datatype, np.dtype("<u2")).itemsize
    values = data.ConsumeIntListInRange(rows, 0, 3)
    return b"".join(value.to_bytes(size, "little") for value in values)


def _fill(data, contents, rows):
    field = data.PickValueInList(FIELDS)
    values = getattr(contents, f"{field}_contents")
    for _ in range(data.ConsumeIntInRange(0, rows + 1)):
        if field == "bytes":
            values.append(data.PickValueInList(WORDS).encode())
        elif field.startswith("fp"):
            values.append(data.ConsumeFloat())
        else:
            bits = 31 if field in {"int", "uint"} else 62
            values.append(data.ConsumeBool() if field == "bool" else data.ConsumeInt(8) % 2**bits)


def _build(data, kind, rows):
    """Return a message whose parts are mostly right."""
    message = kind(id="1", model_name="large")
    is_answer = kind is pb.ModelInferResponse
    listed, raws = (
        (message.outputs, message.raw_output_contents)
        if is_answer
        else (message.inputs, message.raw_input_contents)
    )
    count = data.ConsumeIntInRange(0, 5)
    names = NAMES[:3] if count == 0 else [data.PickValueInList(NAMES) for _ in range(count)]
    for name in names:
        is_usual = data.ConsumeIntInRange(0, 7) > 0
        datatype = USUAL.get(name) if is_usual else None
        datatype = datatype or data.PickValueInList(TYPES)
        shape = [rows] if is_usual else _shape(data, rows)
        tensor = listed.add(name=name, datatype=datatype, shape=shape)
        if is_usual or data.ConsumeBool():
            raws.append(_raw(data, datatype, rows, is_right=is_usual))
        else:
            _fill(data, tensor.contents, rows)
    return message.SerializeToString()


def _harm(data, content):
    """Return the bytes with some of them replaced, or others instead."""
    if data.ConsumeBool():
        return data.ConsumeBytes(1 << 16)
    begin = data.ConsumeIntInRange(0, len(content))
    end = begin + data.ConsumeIntInRange(0, 8)
    return content[:begin] + data.ConsumeBytes(data.ConsumeIntInRange(0, 8)) + content[end:]


def _read_answer(data, content, rows):
    response = tensors.parse(pb.ModelInferResponse, content)
    reader = data.PickValueInList(READERS)
    answers = reader.read_raw(response, rows)
    if answers is None:
        outputs = tensors.decode_tensors(response.outputs, response.raw_output_contents)
        answers = reader.read(outputs, rows)
    names, confidence = answers
    numbers = reader.numbers(names)
    assert len(names) == len(numbers) == rows
    assert confidence.shape == (rows,)
    assert confidence.dtype == np.float32
    assert not np.isinf(confidence).any()


def _read_request(content):
    request = tensors.parse(pb.ModelInferRequest, content)
    arrays = tensors.decode_tensors(request.inputs, request.raw_input_contents)
    assert len(arrays) == len(request.inputs)
    for tensor in request.inputs:
        array = arrays[tensor.name]
        assert list(array.shape) == list(tensor.shape)
        if array.dtype == object:
            count = tensors.element_count(tensor.shape)
            assert tensors.decode_bytes(tensors.encode_bytes(array.flat), count) == list(array.flat)
        elif tensor.datatype != tensors.BF16:
            again = bytes(tensors.encode_array(array))
            decoded = tensors.decode_array(again, tensor.datatype, tensor.shape)
            assert decoded.tobytes() == array.tobytes()


def _read_address(text):
    assert one_line(text).isprintable()
    host, port = split_address(text)
    assert split_address(join_address(host, port)) == (host, port)


def fuzz(content):
    """Read one input in one of the ways."""
    data = atheris.FuzzedDataProvider(content)
    rows, way = data.ConsumeIntInRange(0, 4), data.ConsumeIntInRange(0, 4)
    try:
        if way == 0:
            _read_address(data.ConsumeUnicode(40))
        elif way == 1:
            _read_answer(data, _build(data, pb.ModelInferResponse, rows), rows)
        elif way == 2:
            _read_request(_build(data, pb.ModelInferRequest, rows))
        elif way == 3:
            _read_answer(data, _harm(data, _build(data, pb.ModelInferResponse, rows)), rows)
        else:
            _read_request(_harm(data, _build(data, pb.ModelInferRequest, rows)))
    except (tensors.WireError, CloudProtocolError, SettingError) as error:
        if not one_line(error).isprintable():
            raise


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
