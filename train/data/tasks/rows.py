"""Rows of the files that tasks are published in, each with its place in the file for messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.data.layouts import parquet
from train.data.layouts.columns import SUFFIXES
from train.data.records import csv_rows, json_records
from train.errors import DataError


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
    if path.suffix == ".parquet":
        rows = _parquet(path)
    else:
        records = csv_rows(path) if path.suffix == ".csv" else json_records(path)
        rows = [Row(dict(values), where) for values, where in records]
    if not rows:
        raise DataError(f"expected rows in {path}, got none")
    return rows


def rows_of_table(columns: Sequence[dict[str, Any]], features: Any, name: str) -> list[Row]:
    """Return the rows of a Hugging Face table, with the names of numbered classes.

    Args:
        columns: Rows as column -> value.
        features: The `datasets.Features` of the table.
        name: Name of the table in messages.

    Raises:
        DataError: A number has no name.
    """
    return _named(columns, {c: f.names for c, f in features.items() if hasattr(f, "names")}, name)


def _named(
    columns: Sequence[dict[str, Any]], classes: Mapping[str, Sequence[str]], name: str
) -> list[Row]:
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
    rows, classes = parquet.read_rows(path)
    return _named(rows, classes, str(path))
