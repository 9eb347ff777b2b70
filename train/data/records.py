"""Records of text files, one at a time, each with its place in the file for messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from edge_runtime.reading import read_bytes
from train.errors import DataError

_LINE: Final = 2**24
"""Characters that a line may have."""
_WHOLE: Final = 2**30
"""Bytes that a file may have that is read as a whole."""


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        DataError: It is missing, too large, or not UTF-8.
    """
    try:
        content = read_bytes(path, limit=_WHOLE)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _not_utf8(path, line, content[error.start]) from None


def json_value(text: str, where: str) -> Any:
    """Return the value that a text stands for.

    Raises:
        DataError: It is not JSON, or nested too deep.
    """
    # The json module stops at Python's depth. Arrow's reader of JSON has no limit and crashes.
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected json in {where}: {error}") from None


def json_records(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a file of JSON lines, or of a `.json` file that is one list of them.

    Raises:
        DataError: The file is missing, damaged or not UTF-8, or holds something else.
    """
    # Many .json files hold JSON lines.
    if path.suffix == ".json" and (text := read_text(path)).lstrip().startswith("["):
        for i, value in enumerate(json_value(text, str(path))):
            yield _object(value, f"row {i} of {path}")
        return
    for number, line in enumerate(_lines(path, "\n"), 1):
        if line.strip():
            where = f"line {number} of {path}"
            yield _object(json_value(line, where), where)


def csv_records(path: Path) -> Iterator[tuple[list[str], str]]:
    """Yield the records of a csv file, the first one too.

    Raises:
        DataError: The file is missing, not UTF-8, or not valid csv.
    """
    reader = csv.reader(_lines(path, ""), strict=True)
    try:
        for record in reader:
            if record:
                yield record, f"line {reader.line_num} of {path}"
    except csv.Error as error:
        raise DataError(f"expected csv in line {reader.line_num} of {path}: {error}") from None


def csv_rows(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the records below the header of a csv file by column.

    Raises:
        DataError: As `csv_records`; or a record has another number of columns than the header, or
            the header names a column twice.
    """
    records = csv_records(path)
    header, first = next(records, ([], ""))
    if len(set(header)) != len(header):
        raise DataError(f"expected each column once in {first}, got {header}: rename one")
    for record, where in records:
        if len(record) != len(header):
            raise DataError(f"expected {len(header)} columns as in the header in {where}")
        yield dict(zip(header, record, strict=True)), where


def _object(value: Any, where: str) -> tuple[dict[str, Any], str]:
    if not isinstance(value, dict):
        raise DataError(f"expected a json object in {where}, got {value!r:.40}")
    return value, where


def _lines(path: Path, newline: Literal["", "\n"]) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            for line in iter(lambda: file.readline(_LINE + 1), ""):
                if len(line) > _LINE:
                    raise DataError(f"expected lines of at most {_LINE} characters in {path}")
                yield line
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise _first_odd_line(path) from None


def _first_odd_line(path: Path) -> DataError:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LINE), b""), 1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                return _not_utf8(path, number, line[error.start])
    return DataError(f"expected UTF-8 in {path}, it changed while it was read: try again")


def _not_utf8(path: Path, line: int, byte: int) -> DataError:
    return DataError(
        f"expected UTF-8 in line {line} of {path}, got the byte {byte:#04x}: save the file as UTF-8"
    )


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"expected a file at {path}: {error.strerror or error}: check the path")
