"""Fuzzes the readers of tables: csv, json, jsonl and parquet, and of idx files.

An input is edits of a valid file. `CONTRIBUTING.md` says how to run it.
"""

import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import pyarrow as pa
from edits import SCRATCH, edit_bytes, edit_json, edit_text, fuzz
from PIL import Image
from pyarrow import parquet

_MODULES = ["columns", "parquet", "tables", "unpacking", "binary"]

with atheris.instrument_imports(
    include=["train.data.records", *(f"train.data.layouts.{module}" for module in _MODULES)]
):
    from train.data.layouts import binary, tables
    from train.data.layouts import parquet as parquet_files

_FOLDER = SCRATCH / "fuzzed-tables"
_ROWS = [{"text": 'a, "b"', "label": "cat"}, {"text": "é\n", "label": "dög", "other": [1, None]}]
_NAMES = [
    "text",
    "image",
    "label",
    "labels",
    "intent",
    "true",
    "01",
    "1e5",
    "-1",
    "\ufeff",
    '"',
    "\r",
]
_CSV = 'text,label,other\n"a, ""b""",cat,1\né,dög,\n"two\nlines",cat,x\n'
_NUMBERED = "sentence,label\na,0\nb,1\nc,1\n"


def _parquet(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


def _tables() -> list[bytes]:
    """Return small parquet files of texts, of pictures and of classes with names."""
    texts = pa.table({"text": ["a", "b", "a"], "label": [0, 1, 0], "rest": [[1], [], None]})
    classes = {"info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}}}
    named = texts.replace_schema_metadata({"huggingface": json.dumps(classes)})
    picture = pa.array([{"bytes": b"\x89PNG", "path": "p"}, None, {"bytes": _png(), "path": None}])
    pictures = pa.table({"image": picture, "label": ["cat", "dog", "cat"]})
    kept = pa.table({"text": pa.array(["a", "b"]).dictionary_encode(), "label": [1.0, 2.0]})
    plain = {"compression": "none", "use_dictionary": False, "store_schema": False}
    return [
        _parquet(texts, **plain),
        _parquet(texts, compression="none"),
        _parquet(named, compression="snappy", row_group_size=2),
        _parquet(pictures, compression="none", data_page_version="2.0"),
        _parquet(kept, compression="zstd", use_byte_stream_split=False),
    ]


_PARQUET = _tables()
_PIXELS = struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(range(8))
_LABELS = struct.pack(">4BI", 0, 0, 8, 1, 2) + b"\0\1"


def _read_table(name: str, content: bytes) -> str:
    path = _FOLDER / name
    path.write_bytes(content)
    tables.read_inputs(path)
    (data,) = tables.read_file(path).values()
    assert len(data.inputs) == len(data.labels) == len(data.ids)
    assert not len(data.labels) or 0 <= data.labels.min() <= data.labels.max() < len(
        data.label_names
    )
    if data.kind == "image":  # its bytes lie in the file until now
        data.inputs[len(data) - 1]
    return f"{path.suffix[1:]} read"


def _read_json(given: atheris.FuzzedDataProvider) -> str:
    seed = json.dumps(_ROWS)
    rows = edit_json(seed, given, _NAMES)
    is_list = given.ConsumeBool()
    lines = [json.dumps(row) for row in rows] if isinstance(rows, list) else [json.dumps(rows)]
    text = json.dumps(rows) if is_list else "\n".join(lines)
    if given.ConsumeIntInRange(0, 7) == 7:
        text = edit_text(text, given, given.PickValueInList([None, *_NAMES]))
    return _read_table("t.json" if is_list else "t.jsonl", _encoded(text, given))


def _encoded(text: str, given: atheris.FuzzedDataProvider) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return edit_bytes(content, given) if given.ConsumeIntInRange(0, 7) == 7 else content


def _read_csv(given: atheris.FuzzedDataProvider) -> str:
    text = given.PickValueInList([_CSV, _NUMBERED])
    for _ in range(given.PickValueInList([1, 1, 2])):
        text = edit_text(text, given, given.PickValueInList([None, *_NAMES]))
    return _read_table("t.csv", _encoded(text, given))


def _read_parquet(given: atheris.FuzzedDataProvider) -> str:
    content = given.PickValueInList(_PARQUET)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    if given.ConsumeBool():
        content = edit_bytes(content, given)
    else:  # in the footer, whose size is corrected
        content = edit_bytes(content[:-8], given, footer)
        content += struct.pack("<I", max(0, len(content) - footer)) + b"PAR1"
    if given.ConsumeIntInRange(0, 3) == 3:
        (_FOLDER / "t.parquet").write_bytes(content)
        parquet_files.read_rows(_FOLDER / "t.parquet")
        return "rows read"
    return _read_table("t.parquet", content)


def _read_idx(given: atheris.FuzzedDataProvider) -> str:
    files = {"train-images-idx3-ubyte": _PIXELS, "train-labels-idx1-ubyte": _LABELS}
    chosen = given.PickValueInList(list(files))
    files[chosen] = edit_bytes(files[chosen], given, 0 if given.ConsumeBool() else 4)
    packed = given.ConsumeBool()
    folder = _FOLDER / ("packed" if packed else "plain")
    for name, content in files.items():
        if packed:
            content = gzip.compress(content, 1, mtime=0)  # noqa: PLW2901
            content = edit_bytes(content, given) if given.ConsumeBool() else content  # noqa: PLW2901
        (folder / (name + ".gz" * packed)).write_bytes(content)
    (data,) = binary.read_idx(folder).values()
    assert len(data.inputs) == len(data.labels)
    assert all(np.asarray(picture).dtype == np.uint8 for picture in data.inputs)
    return "idx read"


_READERS: list[Callable[[atheris.FuzzedDataProvider], str]] = [
    _read_json, _read_csv, _read_parquet, _read_parquet, _read_parquet, _read_idx,
]  # fmt: skip


def read(given: atheris.FuzzedDataProvider) -> str:
    """Read one file of one kind."""
    return given.PickValueInList(_READERS)(given)


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


_make_folders(_FOLDER / "packed", _FOLDER / "plain")

if __name__ == "__main__":
    for content in _PARQUET[:4]:  # the last has fractions as labels
        _read_table("t.parquet", content)
    fuzz(read, max_len=128, len_control=0)
