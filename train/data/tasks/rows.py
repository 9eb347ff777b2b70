"""Rows of the files that tasks are published in, each with its place in the file for messages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.files import one_line
from train.errors import DataError

SUFFIXES: Final = (".parquet", ".jsonl", ".json", ".csv")


@dataclass(frozen=True)
class Row:
    """One row of a file or table.

    Attributes:
        values: Column name -> value.
        where: Its place, for messages: "line 3 of train.jsonl".
    """

    values: dict[str, Any]
    where: str

    def get(self, *keys: str) -> Any:
        """Return the value under the first of the keys that the row has.

        Raises:
            DataError: It has none of the keys.
        """
        key = next((k for k in keys if self.values.get(k) is not None), None)
        if key is None:
            raise DataError(
                f"expected {'|'.join(keys)} in {self.where}, it has {list(self.values)[:8]}: "
                "rename the columns"
            )
        return self.values[key]

    def text(self, *keys: str) -> str:
        """Return a text, without white space at its ends.

        Raises:
            DataError: It is missing, empty, or not a text.
        """
        value = self.get(*keys)
        if not isinstance(value, str) or not value.strip():
            shown = f"{value!r:.40}" if value != "" else "an empty one"
            raise DataError(f"expected a text as {'|'.join(keys)} in {self.where}, got {shown}")
        return value.strip()


SplitRows = dict[str, list[Row]]
"""Split (train, validation, test, dev) -> rows."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a parquet, jsonl, json or csv file; a csv file has a header.

    Raises:
        DataError: It is missing, damaged, of another kind, not UTF-8, or has no rows.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"expected a file {', '.join(SUFFIXES)}, got {path}")
    readers = {".parquet": _parquet, ".jsonl": _jsonl, ".json": _json, ".csv": _csv}
    rows = readers[path.suffix](path)
    if not rows:
        raise DataError(f"expected rows in {path}, got none")
    return rows


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        DataError: It is missing, or not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"expected a file at {path}: {error.strerror}: check the path") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"expected UTF-8 in line {line} of {path}, got the byte {content[error.start]:#04x}: "
            "save the file as UTF-8"
        ) from None


def read_json(path: Path) -> Any:
    """Return the content of a json file.

    Raises:
        DataError: It is missing, or not JSON.
    """
    return _parsed(read_text(path), str(path))


def csv_lines(path: Path) -> list[tuple[list[str], str]]:
    """Return the records of a csv file, each with its place in the file.

    Raises:
        DataError: It is missing, not UTF-8, or not valid csv.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return [(record, f"line {reader.line_num} of {path}") for record in reader if record]
    except csv.Error as error:
        raise DataError(f"expected csv in line {reader.line_num} of {path}: {error}") from None


def rows_of_table(columns: Sequence[dict[str, Any]], features: Any, name: str) -> list[Row]:
    """Return the rows of a Hugging Face table, with the names of numbered classes.

    Args:
        columns: Rows as column -> value.
        features: The `datasets.Features` of the table.
        name: Name of the table in messages.

    Raises:
        DataError: A number has no name.
    """
    classes = {c: f.names for c, f in features.items() if hasattr(f, "names")}
    rows = [Row(dict(row), f"row {i} of {name}") for i, row in enumerate(columns)]
    for row in rows:
        for column, names in classes.items():
            row.values[column] = _class_name(row.values[column], names, column, row.where)
    return rows


def _class_name(number: Any, names: Sequence[str], column: str, where: str) -> str | None:
    if number is None:
        return None
    if not 0 <= number < len(names):
        raise DataError(f"expected {column} from 0 to {len(names) - 1} in {where}, got {number}")
    return names[number]


def _parquet(path: Path) -> list[Row]:
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"expected a parquet table at {path}: {one_line(error, 160)}") from None
    features = datasets.Features.from_arrow_schema(table.schema)
    return rows_of_table(table.to_pylist(), features, str(path))


def _jsonl(path: Path) -> list[Row]:
    return list(_json_lines(read_text(path), path))


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"line {number} of {path}"
            yield _object(_parsed(line, where), where)


def _json(path: Path) -> list[Row]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return list(_json_lines(text, path))  # many .json files of the hub hold JSON lines
    rows = _parsed(text, str(path))
    return [_object(row, f"row {i} of {path}") for i, row in enumerate(rows)]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected json in {where}: {error}") from None


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"expected a json object in {where}, got {value!r:.40}")
    return Row(value, where)


def _csv(path: Path) -> list[Row]:
    records = csv_lines(path)
    if not records:
        return []
    header = records[0][0]
    odd = next((where for record, where in records if len(record) != len(header)), None)
    if odd is not None:
        raise DataError(f"expected {len(header)} columns as in the header in {odd}")
    return [Row(dict(zip(header, record, strict=True)), where) for record, where in records[1:]]
