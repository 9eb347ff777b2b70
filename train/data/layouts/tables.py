"""Tables of pictures or texts: parquet, csv and jsonl files, and Hugging Face data sets.

Nothing of a file is copied to disk. Pictures stay in their file and are decoded on access.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.names import class_name, what_is
from train.data.labelled import Kind, LabelledData
from train.data.layouts.columns import IMAGES, LABELS, SUFFIXES, TEXTS, Columns, read_columns
from train.data.pictures import LazyPictures
from train.errors import DataError

_HALF_PAIR = re.compile("[\ud800-\udfff]")
SPLITS = ("train", "validation", "valid", "val", "dev", "test")


def matches(folder: Path) -> bool:
    """Return whether a folder holds tables that are named after splits."""
    return bool(_files(folder))


def read(folder: Path) -> dict[str, LabelledData]:
    """Read `train*`, `validation*` and `test*`, or a single table."""
    found = {}
    for split, files in _files(folder).items():
        if len({path.suffix for path in files}) > 1:
            raise DataError(f"expected files of one kind for {split} in {folder}, got several")
        found[split] = from_columns(read_columns(files, split), split)
    return found


def read_file(path: Path) -> dict[str, LabelledData]:
    """Read one file as `train`.

    Raises:
        DataError: It is not a table, is damaged, or has no inputs or labels.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"expected a file {', '.join(SUFFIXES)}, {path} is {what_is(path)}")
    return {"train": from_columns(read_columns([path], "train"), "train")}


def read_inputs(path: Path) -> tuple[Sequence[Any], Kind]:
    """Return the inputs of a file, or of a folder's `train*` (of all its tables without one).

    Raises:
        DataError: It is not a table, is damaged, or has no inputs.
    """
    found = _files(path) if path.is_dir() else {"train": [path]}
    groups = [found["train"]] if "train" in found else list(found.values())
    files = [file for group in groups for file in group]
    odd = next((file for file in files if file.suffix not in SUFFIXES), None)
    if odd is not None or len({file.suffix for file in files}) > 1:
        raise DataError(f"expected files of one kind ({', '.join(SUFFIXES)}), got {odd or path}")
    return _inputs(read_columns(files, path.name), path.name)


def _files(folder: Path) -> dict[str, list[Path]]:
    tables = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    found = {s: [p for p in tables if p.name.startswith((f"{s}.", f"{s}-"))] for s in SPLITS}
    return {split: files for split, files in found.items() if files}


def from_columns(table: Columns, split: str) -> LabelledData:
    """Return a split from the columns of a table.

    Raises:
        DataError: It has no column of inputs or of labels, or some are missing or of a wrong type.
    """
    column = table.first(LABELS)
    if column is None or table.first((*IMAGES, *TEXTS)) is None:
        raise DataError(
            f"expected a column {'|'.join((*IMAGES, *TEXTS))} and a column {'|'.join(LABELS)} "
            f"in {split}, got {_shown(table)}: rename them, on the first line of a csv file"
        )
    labels, names = _labels(table.values[column], table.classes.get(column), split)
    ids = tuple(f"{split}-{i}" for i in range(len(labels)))
    inputs, kind = _inputs(table, split)
    return LabelledData(inputs, labels, ids, names, kind)


def _inputs(table: Columns, split: str) -> tuple[Sequence[Any], Kind]:
    image = table.first(IMAGES)
    if image is not None:
        if not isinstance(table.values[image], LazyPictures):
            raise DataError(
                f"expected encoded pictures in {image} of {split}, got texts: use a parquet file, "
                "or a folder of pictures per class"
            )
        return table.values[image], "image"
    text = table.first(TEXTS)
    if text is None:
        raise DataError(
            f"expected a column {'|'.join((*IMAGES, *TEXTS))} in {split}, got {_shown(table)}: "
            "rename it, on the first line of a csv file"
        )
    return _texts(table.values[text], split), "text"


def _shown(table: Columns) -> list[str]:
    return [name[:40] for name in table.names[:20]]


def _texts(texts: Sequence[Any], split: str) -> Sequence[str]:
    for row, text in enumerate(texts):
        if text is None or (isinstance(text, str) and not text.strip()):
            raise DataError(f"expected a text in every row of {split}, row {row} has none")
        if not isinstance(text, str):
            raise DataError(
                f"expected a text in every row of {split}, row {row} has {text!r:.40}: write it as "
                "a text, in quotes"
            )
        _require_whole(text, split, row)
    return texts


def _require_whole(text: str, split: str, row: int) -> None:
    if not text.isascii() and _HALF_PAIR.search(text):
        raise DataError(
            f"expected whole characters in {split}, row {row} has half of a surrogate pair in "
            f"{text!r:.40}: correct or drop it"
        )


def _labels(
    values: Sequence[Any], declared: tuple[str, ...] | None, split: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    kinds: set[type] = set()
    for row, value in enumerate(values):
        if value in (None, ""):
            raise DataError(f"expected a label in every row of {split}, row {row} has none")
        kinds.add(type(value))
        if type(value) not in (str, int, bool) or len(kinds) > 1:
            raise DataError(
                f"expected whole numbers or names as labels in {split}, of one kind and "
                f"one a row, row {row} has {value!r:.40}"
            )
        if type(value) is int and value < 0:
            raise DataError(
                f"expected a label in every row of {split}, labels from 0 on, row {row} has {value}"
            )
        if type(value) is str:
            _require_whole(value, split, row)
    if declared is not None and kinds == {int}:
        if max(values) >= len(declared):
            raise DataError(
                f"expected labels from 0 to {len(declared) - 1} in {split}, got {max(values)}"
            )
        return np.array(values, np.int64), declared
    # Only classes that occur: a number may be an id, with millions of others below it.
    if kinds == {str}:
        values = [class_name(value) for value in values]
    classes = sorted(set(values))
    numbers = {value: number for number, value in enumerate(classes)}
    names = tuple(str(c).lower() if kinds == {bool} else str(c) for c in classes)
    return np.array([numbers[value] for value in values], np.int64), names
