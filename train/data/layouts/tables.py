"""Tables of pictures or texts: parquet, csv and jsonl files, and Hugging Face data sets.

They stay on disk, memory-mapped; pictures are decoded on access.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.files import one_line
from train.data.labelled import Kind, LabelledData
from train.data.pictures import EncodedPictures
from train.errors import DataError

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
SPLITS = ("train", "validation", "valid", "val", "dev", "test")
_IMAGES = ("image", "img")
_TEXTS = ("text", "sentence", "utterance", "query")
_LABELS = ("label", "labels", "fine_label", "intent", "category", "coarse_label")


def matches(folder: Path) -> bool:
    """Return whether a folder holds tables that are named after splits."""
    return bool(_files(folder))


def read(folder: Path) -> dict[str, LabelledData]:
    """Read `train*`, `validation*` and `test*`, or a single table."""
    found = {}
    for split, files in _files(folder).items():
        if len({path.suffix for path in files}) > 1:
            raise DataError(f"expected files of one kind for {split} in {folder}, got several")
        found[split] = from_table(_open(files), split)
    return found


def read_file(path: Path) -> dict[str, LabelledData]:
    """Read one file as `train`.

    Raises:
        DataError: It is not a table, is damaged, or has no inputs or labels.
    """
    if path.suffix not in BUILDERS:
        raise DataError(f"expected a file {', '.join(BUILDERS)}, got {path}")
    return {"train": from_table(_open([path]), "train")}


def read_inputs(path: Path) -> tuple[Sequence[Any], Kind]:
    """Return the inputs of a file, or of a folder's `train*` (of all its tables without one).

    Raises:
        DataError: It is not a table, is damaged, or has no inputs.
    """
    found = _files(path) if path.is_dir() else {"train": [path]}
    groups = [found["train"]] if "train" in found else list(found.values())
    files = [file for group in groups for file in group]
    odd = next((file for file in files if file.suffix not in BUILDERS), None)
    if odd is not None or len({file.suffix for file in files}) > 1:
        raise DataError(f"expected files of one kind ({', '.join(BUILDERS)}), got {odd or path}")
    return _inputs(_open(files), path.name)


def _files(folder: Path) -> dict[str, list[Path]]:
    tables = sorted(p for p in folder.iterdir() if p.suffix in BUILDERS and p.is_file())
    found = {s: [p for p in tables if p.name.startswith((f"{s}.", f"{s}-"))] for s in SPLITS}
    return {split: files for split, files in found.items() if files}


def _open(files: Sequence[Path]) -> Any:
    import datasets

    datasets.disable_progress_bars()
    suffix = files[0].suffix
    try:
        if suffix == ".csv":
            return datasets.Dataset(_csv(files))
        names = [str(path) for path in files]
        return datasets.load_dataset(BUILDERS[suffix], data_files={"train": names})["train"]
    except Exception as error:  # noqa: BLE001 - datasets raises many unrelated classes
        reason = _broken_line(files) if suffix == ".jsonl" else None
        reason = reason or one_line(error.__cause__ or error, 160)
        raise DataError(
            f"expected a {suffix[1:]} table in {files[0]}, it does not open: {reason}"
        ) from None


def _csv(files: Sequence[Path]) -> Any:
    # The csv reader of datasets reads the words "null", "None" and "NA" as missing values.
    import pyarrow as pa
    from pyarrow import csv

    quoted_newlines = csv.ParseOptions(newlines_in_values=True)
    return pa.concat_tables(csv.read_csv(path, parse_options=quoted_newlines) for path in files)


def _broken_line(files: Sequence[Path]) -> str | None:
    for path in files:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                json.loads(line)
            except ValueError as error:
                return f"line {number} of {path.name}: {error}"
    return None


def from_table(table: Any, split: str) -> LabelledData:
    """Return a split from a table of the `datasets` library.

    Raises:
        DataError: It has no column of inputs or of labels, or some are missing.
    """
    columns = table.column_names
    label = next((c for c in _LABELS if c in columns), None)
    if label is None or not any(c in columns for c in (*_IMAGES, *_TEXTS)):
        raise DataError(
            f"expected a column {'|'.join((*_IMAGES, *_TEXTS))} and a column {'|'.join(_LABELS)} "
            f"in {split}, got {columns}: rename them, on the first line of a csv file"
        )
    labels, names = _labels(table, label, split)
    ids = tuple(f"{split}-{i}" for i in range(len(labels)))
    inputs, kind = _inputs(table, split)
    return LabelledData(inputs, labels, ids, names, kind)


def _inputs(table: Any, split: str) -> tuple[Sequence[Any], Kind]:
    columns = table.column_names
    image = next((c for c in _IMAGES if c in columns), None)
    if image is not None:
        return _pictures(table, image, split), "image"
    text = next((c for c in _TEXTS if c in columns), None)
    if text is None:
        raise DataError(
            f"expected a column {'|'.join((*_IMAGES, *_TEXTS))} in {split}, got {columns}: rename "
            "it, on the first line of a csv file"
        )
    return _texts(table, text, split), "text"


def _pictures(table: Any, column: str, split: str) -> EncodedPictures:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = table.data.column(column)
    if pa.types.is_struct(values.type):
        values = pc.struct_field(values, "bytes")
    if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
        raise DataError(f"expected encoded pictures in {column} of {split}, got {values.type}")
    return EncodedPictures(values, split)


def _texts(table: Any, column: str, split: str) -> list[str]:
    texts = table[column][:]
    empty = next((i for i, t in enumerate(texts) if not isinstance(t, str) or not t.strip()), None)
    if empty is not None:
        raise DataError(f"expected a text in every row of {split}, row {empty} has none")
    return list(texts)


def _labels(table: Any, column: str, split: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    values = table[column][:]
    missing = next((i for i, v in enumerate(values) if v in {None, ""}), None)
    if missing is not None:
        raise DataError(f"expected a label in every row of {split}, row {missing} has none")
    if all(isinstance(v, str) for v in values):
        names, numbers = np.unique(np.array(values, dtype=object), return_inverse=True)
        return numbers.astype(np.int64), tuple(names.tolist())
    if not all(isinstance(v, int) for v in values):
        raise DataError(f"expected whole numbers or names as labels in {split}, got {values[0]!r}")
    labels = np.array(values, np.int64)
    declared = getattr(table.features[column], "names", None)
    return labels, tuple(declared or (str(i) for i in range(int(labels.max(initial=0)) + 1)))
