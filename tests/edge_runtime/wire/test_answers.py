"""Answers read directly from a response equal those of the general path, or are left to it."""

import numpy as np
import pytest

from edge_runtime.errors import CloudProtocolError
from edge_runtime.wire import messages as pb
from edge_runtime.wire.answers import AnswerReader
from edge_runtime.wire.tensors import decode_tensors

LABELS = ["cat", "dög", ""]
# Two rows, written out by hand: int64, a length before each name, float32.
CONTENTS = {
    "prediction": ("INT64", bytes([1, *[0] * 7, 0, *[0] * 7])),
    "label": ("BYTES", b"\x04\0\0\0d\xc3\xb6g" + b"\x03\0\0\0cat"),
    "confidence": ("FP32", b"\0\0\0\x3f" + b"\0\0\x80\x3f"),
}


@pytest.fixture
def reader():
    return AnswerReader.of(LABELS, output=None, reduce=None, foreign_labels=None)


def response(**changed):
    made = pb.ModelInferResponse()
    for name, (datatype, raw) in {**CONTENTS, **changed}.items():
        made.outputs.add(name=name, datatype=datatype, shape=[2])
        made.raw_output_contents.append(raw)
    return made


def test_an_answer_of_the_contract_is_read(reader):
    names, confidence = reader.read_raw(response(), 2)
    assert names == ["dög", "cat"]
    assert (confidence.dtype, confidence.tolist()) == (np.float32, [0.5, 1.0])


def test_the_order_of_outputs_does_not_matter(reader):
    made = response()
    turned = pb.ModelInferResponse(
        outputs=made.outputs[::-1], raw_output_contents=made.raw_output_contents[::-1]
    )
    assert reader.read_raw(turned, 2)[0] == ["dög", "cat"]


def test_a_label_that_nobody_knows_is_refused(reader):
    label = ("BYTES", b"\x01\0\0\0?" + b"\x03\0\0\0cat")
    with pytest.raises(CloudProtocolError, match="none of the edge model's 3"):
        reader.read_raw(response(label=label), 2)


def test_empty_typed_contents_beside_raw_ones_do_not_matter(reader):
    made = response()
    for tensor in made.outputs:
        tensor.contents.SetInParent()
    assert reader.read_raw(made, 2)[0] == ["dög", "cat"]


def test_an_axis_of_one_behind_each_answer_is_left_to_the_general_way_which_reads_it(reader):
    made = response()
    for tensor in made.outputs:
        tensor.shape.append(1)
    assert reader.read_raw(made, 2) is None
    names, confidence = reader.read(decode_tensors(made.outputs, made.raw_output_contents), 2)
    assert (names, confidence.tolist()) == (["dög", "cat"], [0.5, 1.0])


@pytest.mark.parametrize(
    "changed",
    [
        {"prediction": ("INT32", bytes(8))},
        {"prediction": ("INT64", bytes(15))},
        {"label": ("BYTES", b"\x03\0\0\0cat")},
        {"label": ("BYTES", b"\xff\xff\xff\xff" + b"\x03\0\0\0cat")},
        {"confidence": ("FP16", bytes(4))},
        {"confidence": ("FP32", bytes(9))},
        {"other": ("FP32", bytes(8))},
    ],
)
def test_what_is_different_is_left_to_the_general_way_which_refuses_it(reader, changed):
    made = response(**changed)
    assert reader.read_raw(made, 2) is None
    with pytest.raises(ValueError):
        reader.read(decode_tensors(made.outputs, made.raw_output_contents), 2)


def test_other_shapes_forms_and_engines_are_left_to_the_general_way(reader):
    assert reader.read_raw(response(), 1) is None
    twice = response()
    twice.outputs[2].name = "label"
    assert reader.read_raw(twice, 2) is None
    typed = response()
    typed.outputs[0].contents.int64_contents.extend([1, 0])
    assert reader.read_raw(typed, 2) is None
    del typed.raw_output_contents[:]
    assert reader.read_raw(typed, 2) is None
    foreign = AnswerReader.of(LABELS, output="scores", reduce="argmax", foreign_labels=None)
    assert foreign.read_raw(response(), 2) is None


def test_a_foreign_confidence_may_keep_an_axis_of_one():
    # Triton cannot do without it where it puts requests together.
    reader = AnswerReader.of(LABELS, output="prediction", reduce=None, foreign_labels=None)
    column = np.array([[0.5], [1.0]], np.float32)
    outputs = {"prediction": np.array([[2], [0]]), "confidence": column}
    names, confidence = reader.read(outputs, 2)
    assert names == ["", "cat"]
    assert (confidence.shape, confidence.tolist()) == ((2,), [0.5, 1.0])
