"""Names of classes and files have one form, whatever system wrote them."""

import os
import unicodedata

import pytest

from edge_runtime.contract import GateMetadata, InputDescription
from edge_runtime.names import class_name, file_name, read_class_names, unique_names
from edge_runtime.wire.answers import AnswerReader

COMPOSED = ("Café", "Ångström", "곰")
APART = tuple(unicodedata.normalize("NFD", name) for name in COMPOSED)


def metadata(labels, data="digits"):
    return GateMetadata(
        contract_version=1,
        task="image-classification",
        confidence_kind="max_softmax",
        confidence_range=(0.5, 1.0),
        threshold=0.5,
        labels=labels,
        input=InputDescription(name="image", dtype="uint8", shape=("batch", 8, 8, 3)),
        calibration={"data": data},
    )


def test_accents_of_their_own_are_composed():
    assert APART != COMPOSED
    assert tuple(map(class_name, APART)) == COMPOSED == tuple(map(class_name, COMPOSED))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_names_may_have_a_byte_order_mark_and_the_lines_of_any_system(end, tmp_path):
    file = tmp_path / "labels.txt"
    text = end.join([*APART, "", "a\u2028b", " dog ", ""])
    file.write_bytes(text.encode("utf-8-sig"))
    assert read_class_names(file) == (*COMPOSED, "", "a\u2028b", " dog ")


def test_other_bytes_of_a_files_name_become_text():
    name = os.fsdecode("Café/p".encode() + b"\xff\xe9.png")
    assert file_name(name) == r"Café/p\xff\xe9.png"


def test_a_bundle_that_was_written_with_other_forms_has_composed_names():
    assert GateMetadata.from_json(metadata(APART).to_json()).labels == COMPOSED


def test_metadata_with_other_bytes_in_the_name_of_the_data_are_text():
    text = metadata(COMPOSED, os.fsdecode(b"/data\xfe")).to_json()
    assert GateMetadata.from_json(text.encode().decode()).calibration == {"data": r"/data\xfe"}


@pytest.mark.parametrize(("edge", "cloud"), [(COMPOSED, APART), (APART, COMPOSED)])
def test_edge_and_cloud_agree_in_either_form(edge, cloud):
    reader = AnswerReader.of(edge, output=None, reduce=None, foreign_labels=cloud)
    names = reader._decode(name.encode() for name in cloud)
    assert reader.numbers(names).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        (("a", "b"), ("a", "b")),
        (("a", "b", "a"), ("a (0)", "b", "a (2)")),
        (("a", "a", "a (1)"), ("a (0)", "a (1) (1)", "a (1) (2)")),
        (("caf\u00e9", "cafe\u0301"), ("caf\u00e9 (0)", "caf\u00e9 (1)")),
        (("",) * 3, (" (0)", " (1)", " (2)")),
    ],
)
def test_names_that_occur_twice_get_their_number(names, unique):
    assert unique_names(names) == unique
    assert unique_names(unique) == unique
