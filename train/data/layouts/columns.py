"""Columns of tables, as the files hold them: no text becomes a number, a date or a truth value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from train.data.layouts import parquet
from train.data.pictures import EncodedPictures
from train.data.records import csv_rows, json_records
from train.errors import DataError

IMAGES: Final[tuple[str, ...]] = ("image", "img")
TEXTS: Final[tuple[str, ...]] = ("text", "sentence", "utterance", "query")
LABELS: Final[tuple[str, ...]] = (
    "label",
    "labels",
    "fine_label",
    "intent",
    "category",
    "coarse_label",
)
SUFFIXES: Final[tuple[str, ...]] = (".parquet", ".jsonl", ".json", ".csv")
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FRACTION: Final = re.compile(r"-?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that matter here.

    Attributes:
        names: All columns, in order.
        values: Values of the chosen columns; pictures decoded on access.
        classes: Declared names of numbered classes, by column.
    """

    names: tuple[str, ...]
    values: dict[str, Sequence[Any]]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def first(self, among: Sequence[str]) -> str | None:
        """Return the first of the given columns that the table has."""
        return _first(self.names, among)


def read_columns(files: Sequence[Path], name: str) -> Columns:
    """Return the columns of inputs and labels of files of one kind.

    Raises:
        DataError: A file is missing, damaged, not UTF-8 or unpacks to too much, or a column holds
            something else than texts, numbers or pictures.
    """
    suffix = files[0].suffix
    if suffix == ".parquet":
        return _parquet(files, name)
    rows = csv_rows if suffix == ".csv" else json_records
    found = _collect(row for path in files for row, _ in rows(path))
    label = found.first(LABELS)
    if suffix == ".csv" and label is not None:
        found.values[label] = _numbers(found.values[label], name)
    return found


def _collect(rows: Iterator[dict[str, Any]]) -> Columns:
    names: dict[str, None] = {}
    kept = []
    for row in rows:
        names.update(dict.fromkeys(row))
        kept.append({c: row[c] for c in (*IMAGES, *TEXTS, *LABELS) if c in row})
    values: dict[str, Sequence[Any]] = {
        column: [row.get(column) for row in kept] for column in _wanted(tuple(names))
    }
    return Columns(tuple(names), values)


def _numbers(labels: Sequence[str], name: str) -> Sequence[Any]:
    """Return labels of a csv file as whole numbers if all of them are that and written plainly."""
    if all(map(_INTEGER.fullmatch, labels)):
        return [int(label) for label in labels]
    if all(_INTEGER.fullmatch(label) or _FRACTION.fullmatch(label) for label in labels):
        odd = next(label for label in labels if not _INTEGER.fullmatch(label))
        raise DataError(f"expected whole numbers or names as labels in {name}, got {odd}")
    return labels


def _parquet(files: Sequence[Path], name: str) -> Columns:
    flat: dict[str, list[Any]] = {}
    schemas = []
    for path in files:
        with parquet.opened(path) as file:
            schemas.append(file.schema_arrow)
            if len(set(schemas[-1].names)) < len(schemas[-1].names):
                raise DataError(f"expected each column once in {path}, got one twice: rename it")
            for column in _flat_columns(schemas[-1], name):
                part = parquet.read_values(file, column, path)
                flat.setdefault(column, []).extend(part)
    names = tuple(schemas[0].names)
    if any(set(schema.names) != set(names) for schema in schemas):
        raise DataError(f"expected the same columns in all files of {name}: name one file")
    classes = [parquet.class_names(schema) for schema in schemas]
    if any(one != classes[0] for one in classes):
        raise DataError(f"expected the same class names in all files of {name}: name one file")
    values: dict[str, Sequence[Any]] = dict(flat)
    image = _first(names, IMAGES)
    if image is not None:
        for schema in schemas:
            require_pictures(schema.field(image).type, image, name)
        values[image] = parquet.ParquetPictures(files, image, name)
    return Columns(names, values, classes[0])


def of_dataset(table: Any, name: str) -> Columns:
    """Return the columns of a table of the `datasets` library.

    Raises:
        DataError: A column holds something else than texts, numbers or pictures.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = table.data.schema
    values: dict[str, Sequence[Any]] = {
        column: table.data.column(column).to_pylist() for column in _flat_columns(schema, name)
    }
    image = _first(schema.names, IMAGES)
    if image is not None:
        require_pictures(schema.field(image).type, image, name)
        column = table.data.column(image)
        is_struct = pa.types.is_struct(column.type)
        content = pc.struct_field(column, "bytes") if is_struct else column
        values[image] = EncodedPictures(content, name)
    classes = {c: tuple(f.names) for c, f in table.features.items() if hasattr(f, "names")}
    return Columns(tuple(schema.names), values, classes)


def _wanted(names: Sequence[str]) -> Iterator[str]:
    inputs = _first(names, IMAGES) or _first(names, TEXTS)
    return (column for column in (inputs, _first(names, LABELS)) if column is not None)


def _first(names: Sequence[str], among: Sequence[str]) -> str | None:
    return next((column for column in among if column in names), None)


def _flat_columns(schema: Any, name: str) -> Iterator[str]:
    """Yield the columns of texts and labels, or raise for one of lists, dates or bytes."""
    import pyarrow.types as kinds

    for column in (c for c in _wanted(schema.names) if c not in IMAGES):
        kind = schema.field(column).type
        inner = kind.value_type if kinds.is_dictionary(kind) else kind
        is_text = kinds.is_string(inner) or kinds.is_large_string(inner)
        is_number = kinds.is_integer(inner) or kinds.is_floating(inner) or kinds.is_boolean(inner)
        if not (is_text or is_number or kinds.is_null(inner)):
            raise DataError(
                f"expected texts{' or numbers' * (column in LABELS)} in the column {column} of "
                f"{name}, got {inner}: write it as texts"
            )
        yield column


def require_pictures(kind: Any, column: str, name: str) -> None:
    """Raise a `DataError` unless a column's Arrow type is that of encoded pictures."""
    import pyarrow.types as kinds

    is_struct = kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0
    inner = kind.field("bytes").type if is_struct else kind
    inner = inner.value_type if kinds.is_dictionary(inner) else inner
    if not (kinds.is_binary(inner) or kinds.is_large_binary(inner)):
        raise DataError(f"expected encoded pictures in {column} of {name}, got {inner}")
