"""Tables hold what their writer wrote: types, encodings, sizes, and nothing of an older file."""

import json
import os
import sys
from datetime import date

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from edge_runtime.errors import GatekeeperError
from train import data
from train.data.layouts import unpacking
from train.data.layouts.parquet import ParquetPictures, read_rows
from train.errors import DataError

pytestmark = pytest.mark.once

FORMATS = [".csv", ".jsonl", ".parquet"]


def write(path, texts, labels):
    table = datasets.Dataset.from_dict({"text": texts, "label": labels})
    {".csv": table.to_csv, ".jsonl": table.to_json, ".parquet": table.to_parquet}[path.suffix](path)


def labels_of(path):
    everything = data.load_all(str(path))
    return everything.label_names, [everything.label_names[n] for n in everything.labels]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_is_written_again_at_the_same_time_gives_its_new_rows(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for word in ("old", "new"):
        write(path, [f"{word} {i}" for i in range(20)], ["a", "b"] * 10)
        os.utime(path, ns=(10**18, 10**18))
        assert data.load_all(str(path)).inputs[3] == f"{word} 3"


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_is_read_without_the_cache_of_the_datasets_library(tmp_path, suffix, monkeypatch):
    write(tmp_path / f"a{suffix}", ["x", "y"] * 10, ["a", "b"] * 10)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert labels_of(tmp_path / f"a{suffix}") == (("a", "b"), ["a", "b"] * 10)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["01", "02", "10"], ("01", "02", "10")),
        (["1", "01", "2"], ("01", "1", "2")),
        (["2", "10", "1"], ("1", "2", "10")),
        (["true", "false"], ("false", "true")),
        (["True", "False"], ("False", "True")),
        (["2024-01-02", "2024-01-03"], ("2024-01-02", "2024-01-03")),
        (["NA", "nan"], ("NA", "nan")),
        (["100000007", "3"], ("3", "100000007")),
    ],
)
def test_labels_of_a_csv_file_keep_their_spelling(tmp_path, written, names):
    rows = "".join(f"x,{label}\n" for label in written * 10)
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}")
    assert labels_of(tmp_path / "a.csv") == (names, written * 10)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ([True, False], ("false", "true")),
        ([2**62, 7], ("7", str(2**62))),
        ([100000007, 0], ("0", "100000007")),
        (["10", "9"], ("10", "9")),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_labels_keep_their_type_and_only_those_that_occur_are_classes(
    tmp_path, written, names, suffix
):
    write(tmp_path / f"a{suffix}", ["x"] * 20, written * 10)
    found, labels = labels_of(tmp_path / f"a{suffix}")
    assert found == names
    assert labels == [str(label).lower() for label in written * 10]


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ([1, 2], r"one a row, row 1 has \[1, 2\]"),
        ({"a": 1}, r"row 1 has \{'a': 1\}"),
        ([], r"row 1 has \[\]"),
        (1.5, "row 1 has 1.5"),
        (True, "row 1 has True"),
        (7, "row 1 has 7"),
        (None, "row 1 has none"),
        ("", "row 1 has none"),
    ],
)
def test_a_label_of_another_type_is_refused_in_words(tmp_path, label, says):
    rows = [{"text": "x", "label": one} for one in ("a", label, "b")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=says):
        data.load(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("label", [[0], [1]], r"texts or numbers in the column label of train, got list"),
        ("label", [date(2024, 1, 2), date(2024, 1, 3)], "got date32"),
        ("text", [date(2024, 1, 2), date(2024, 1, 3)], "texts in the column text .* got date32"),
        ("text", [1, 2], "row 0 has 1: write it as a text"),
    ],
)
def test_a_column_of_another_type_is_refused_in_words(tmp_path, column, values, says):
    columns = {"text": ["x", "y"], "label": [0, 1], column: values}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=says):
        data.load(str(tmp_path / "a.parquet"))


def test_numbers_and_dates_of_a_csv_file_are_texts(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "2024-01-02,a\n5.10,b\n" * 10)
    assert set(data.load_all(str(tmp_path / "a.csv")).inputs[:4]) == {"2024-01-02", "5.10"}


def test_the_numbers_of_a_jsonl_file_are_no_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 5, "label": "a"}\n' * 4)
    with pytest.raises(DataError, match="row 0 has 5: write it as a text, in quotes"):
        data.load(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(("text", "label"), [("\\ud83d", "a"), ("x", "\\udc00")])
def test_half_a_character_is_named_with_its_row(tmp_path, text, label):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{text}", "label": "{label}"}}\n')
    with pytest.raises(DataError, match="row 0 has half of a surrogate pair"):
        data.load(str(tmp_path / "a.jsonl"))


def test_a_column_that_occurs_twice_is_refused(tmp_path):
    columns = [pa.array(["x"]), pa.array(["y"]), pa.array([0])]
    table = pa.Table.from_arrays(columns, names=["text", "text", "label"])
    parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,text,label\nx,y,0\n")
    for suffix in (".parquet", ".csv"):
        with pytest.raises(DataError, match=r"expected each column once in .*: rename"):
            data.load(str(tmp_path / f"a{suffix}"))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_another_encoding_is_named_with_its_line(tmp_path, encoding, suffix):
    content = 'text,label\n"caf\xe9",a\n' if suffix == ".csv" else '\n{"text": "caf\xe9"}\n'
    (tmp_path / f"a{suffix}").write_bytes(content.encode(encoding))
    line, byte = (2, "0xe9") if encoding == "cp1252" else (1, "0xff")
    with pytest.raises(DataError, match=rf"UTF-8 in line {line} of .*{byte}: save the file as UTF"):
        data.load(str(tmp_path / f"a{suffix}"))


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\r\nx,a\r\ny,b\r\n".encode("utf-8-sig"))
    assert labels_of(tmp_path / "a.csv") == (("a", "b"), ["a", "b"])


@pytest.mark.parametrize("opening", ["[", '{"text":'])
def test_json_that_is_nested_too_deep_is_refused(tmp_path, opening):
    (tmp_path / "a.jsonl").write_text('{"text": ' + opening * 1_000_000)
    with pytest.raises(DataError, match=r"json in line 1 of .*recursion"):
        data.load(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path, suffix):
    with (tmp_path / f"a{suffix}").open("wb") as file:
        file.truncate(2**40)  # takes no space on the disk
    with pytest.raises(DataError, match="expected lines of at most"):
        data.load(str(tmp_path / f"a{suffix}"))


def repeated(value, rows):
    indices = pa.array([0] * rows, pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array([value]))


def test_a_text_that_a_small_file_repeats_is_held_once(tmp_path):
    columns = {"text": repeated("x" * 1_000_000, 2000), "label": [0, 1] * 1000}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    found = data.load_all(str(tmp_path / "a.parquet"))
    assert (len(found), len(found.inputs[1999])) == (2000, 1_000_000)
    assert len({id(found.inputs[i]) for i in range(2000)}) == 1


def test_a_parquet_file_that_unpacks_to_too_much_is_refused_before_that(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_BYTES", 2**20)
    path = tmp_path / "a.parquet"
    columns = {"text": ["x" * 100_000] * 20, "label": [0, 1] * 10}
    parquet.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=r"at most 1048576 bytes in .* once it is unpacked"):
        data.load(str(path))
    with pytest.raises(DataError, match="once it is unpacked"):
        read_rows(path)
    # Many rows of nothing: they take no place in the file, and some in memory.
    columns = {"text": pa.nulls(10**6, pa.string()), "label": repeated("a", 10**6)}
    parquet.write_table(pa.table(columns), path)
    with pytest.raises(DataError, match="once it is unpacked"):
        data.load(str(path))


def varint(value, length=0):
    """Spell a number as the footer of a parquet file does, in at least `length` bytes."""
    value, spelt = 2 * value, []
    while value or len(spelt) < max(1, length):
        spelt.append(value & 127 | 128)
        value >>= 7
    return bytes([*spelt[:-1], spelt[-1] & 127])


def test_a_parquet_file_that_lies_about_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_BYTES", 2**20)
    path = tmp_path / "a.parquet"
    texts = [f"{i}".ljust(10_000) for i in range(2000)]
    columns = {"text": texts, "label": [0, 1] * 1000}
    parquet.write_table(pa.table(columns), path, compression="zstd")
    size = parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    path.write_bytes(path.read_bytes().replace(varint(size), varint(7, len(varint(size)))))
    assert parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 7
    with pytest.raises(DataError, match="once it is unpacked"):
        data.load(str(path))


@pytest.mark.parametrize("wrong", [0xFF, 0x01])
def test_a_parquet_file_with_any_byte_wrong_is_read_or_refused(tmp_path, wrong):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"t{i % 3}" for i in range(8)], "label": [0, 1] * 4})
    parquet.write_table(table, path, compression="none", store_schema=False)
    right = path.read_bytes()
    refused: list[str] = []
    for place in range(len(right)):
        path.write_bytes(right[:place] + bytes([right[place] ^ wrong]) + right[place + 1 :])
        try:
            data.load_all(str(path))
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > len(right) // 4
    assert not any("\n" in line for line in refused)


def test_rows_of_a_task_count_what_they_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_BYTES", 2**20)
    table, path = pa.table({"prompt": repeated("x" * 100_000, 20)}), tmp_path / "a.parquet"
    for as_dictionary in (True, False):
        parquet.write_table(table, path, store_schema=as_dictionary)
        with pytest.raises(DataError, match="once it is unpacked"):
            read_rows(path)


@pytest.fixture
def picture_file(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {
        "image": [Image.fromarray(np.full((4, 4, 3), i, np.uint8)) for i in range(10)],
        "label": [0, 1] * 5,
    }
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path, batch_size=3)
    return path


def test_pictures_of_a_file_that_lost_some_are_refused(tmp_path):
    picture = pa.array([{"bytes": b"\x89PNG", "path": "p"}, None, {"bytes": b"", "path": None}])
    path, refusals = tmp_path / "t.parquet", set()
    table = pa.table({"image": picture, "label": ["a", "b", "a"]})
    parquet.write_table(table, path, compression="none", data_page_version="2.0")
    right = path.read_bytes()
    for place in range(160):  # the pages of the pictures
        path.write_bytes(right[:place] + bytes([right[place] ^ 0x19]) + right[place + 1 :])
        with pytest.raises(GatekeeperError) as refused:
            ParquetPictures([path], "image", "a")[2]
        refusals.add(str(refused.value).split(" of ")[0])
    assert "expected 3 rows in part 0" in refusals


def test_pictures_stay_in_their_file_and_come_part_by_part(picture_file, monkeypatch):
    assert parquet.read_metadata(picture_file).num_row_groups == 4
    monkeypatch.setattr("train.data.layouts.parquet._KEPT_BYTES", 1)
    pictures = ParquetPictures([picture_file, picture_file], "image", "a")
    assert len(pictures) == 20
    for row in (0, 9, 10, 19, 3, 2):
        assert pictures[row][0, 0].tolist() == [row % 10] * 3
    assert len(pictures._kept) == 1


def test_a_file_that_changes_after_it_was_opened_is_not_read_on(picture_file):
    found = data.load_all(str(picture_file))
    picture_file.write_bytes(picture_file.read_bytes())
    with pytest.raises(DataError, match="as it was opened, it has changed"):
        found.array()


def declare(path, labels, names):
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    rows = {"text": ["x"] * len(labels), "label": labels}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    table.to_parquet(path)
    return path


def test_declared_names_that_occur_twice_stay_two_classes(tmp_path, monkeypatch):
    # datasets refuses such names; other writers of its metadata do not.
    path = declare(tmp_path / "a.parquet", [0, 1, 2] * 10, ["crane", "dog", "spare"])
    table = parquet.read_table(path)
    metadata = {b"huggingface": table.schema.metadata[b"huggingface"].replace(b"spare", b"crane")}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    assert data.load(str(path)).label_names == ("crane (0)", "dog", "crane (2)")


def test_a_label_without_a_declared_name_is_refused(tmp_path):
    path = declare(tmp_path / "a.parquet", [0, 1] * 3, ["a", "b"])
    table = parquet.read_table(path)
    big = pa.array([0, 1, 0, 1, 2**64 - 1, 0], pa.uint64())
    parquet.write_table(table.set_column(1, "label", big), path)
    with pytest.raises(DataError, match=r"labels from 0 to 1 in train, got 18446744073709551615"):
        data.load(str(path))
    parquet.write_table(table.set_column(1, "label", pa.array(["x", "y"] * 3)), path)
    assert data.load_all(str(path)).label_names == ("x", "y")
