"""Parquet files: their columns, read without unpacking more than a part that is used."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_runtime.files import file_state, one_line
from train.data.layouts.unpacking import require_unpacked
from train.data.pictures import LazyPictures
from train.errors import DataError

_KEPT_BYTES: Final = 2**29
_BATCH_BYTES: Final = 2**28
_MOST_ROWS: Final = 1024
_VALUE_BYTES: Final = 64
"""Memory that any value takes as a Python object."""


@contextmanager
def opened(path: Path, *, once: bool = True) -> Iterator[Any]:
    """Yield a file as a `ParquetFile`.

    Args:
        path: The file.
        once: Keep equal texts and bytes of a part once in memory, as a dictionary.

    Raises:
        DataError: It is missing, damaged or no parquet; also if the block finds that.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        leaves = parquet.read_metadata(path).schema
        columns = (leaves.column(i) for i in range(len(leaves)))
        texts = [leaf.path for leaf in columns if once and leaf.physical_type == "BYTE_ARRAY"]
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            yield file
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"expected a parquet table at {path}, it does not open: {one_line(error, 160)}"
        ) from None


def class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """Return the names that the `datasets` library declares for the classes in a column."""
    try:
        declared = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in declared.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def read_values(file: Any, column: str, path: Path) -> list[Any]:
    """Return the values of a flat column; equal texts are one object.

    Raises:
        DataError: They unpack to too much.
    """
    require_unpacked(path, weight(file.metadata, range(file.metadata.num_row_groups)))
    values: list[Any] = []
    known: dict[Any, Any] = {}
    size = 0  # what a damaged or hostile file states of itself may be wrong
    for batch in _batches(file, columns=[column]):
        found, new = _shared(batch.column(0), known)
        values += found
        size += new + _VALUE_BYTES * len(found)
        require_unpacked(path, size)
    return values


def _shared(array: Any, known: dict[Any, Any]) -> tuple[list[Any], int]:
    """Return an array's values, texts as they are in `known`, and the bytes that are new there."""
    import pyarrow as pa

    if not pa.types.is_dictionary(array.type):
        return array.to_pylist(), 0
    texts = array.dictionary.to_pylist()
    new = sum(sys.getsizeof(text) for text in texts if text not in known)
    texts = [*(known.setdefault(text, text) for text in texts), None]
    return [texts[i] for i in array.indices.fill_null(len(texts) - 1).to_pylist()], new


def read_rows(path: Path) -> tuple[list[dict[str, Any]], dict[str, tuple[str, ...]]]:
    """Return all rows of a file, and the names of its classes by column.

    Raises:
        DataError: The file is missing, damaged or no parquet, or unpacks to too much.
    """
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    with opened(path, once=False) as file:
        groups = range(file.metadata.num_row_groups)
        size = weight(file.metadata, groups)
        require_unpacked(path, size)
        largest = max((weight(file.metadata, [group]) for group in groups), default=1)
        # Each row may repeat the largest value.
        few = max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, largest)))
        for batch in _batches(file, few):
            columns = {name: _spelt_out(batch.column(name), path) for name in batch.schema.names}
            size += sum(column.nbytes for column in columns.values())
            require_unpacked(path, size)
            rows += pa.table(columns).to_pylist()
        return rows, class_names(file.schema_arrow)


def _spelt_out(column: Any, path: Path) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    if "dictionary<" in str(column.type):
        raise DataError(f"expected no dictionaries inside other values in {path}: write it plainly")
    return column


def _batches(file: Any, rows: int = _MOST_ROWS, **parts: Any) -> Iterator[Any]:
    for batch in file.iter_batches(rows, use_threads=False, **parts):
        # Arrow trusts the places and lengths in a damaged file, also where they lie outside of it.
        batch.validate(full=True)
        yield batch


def weight(metadata: Any, groups: Iterable[int]) -> int:
    """Return the bytes that parts of a file take as it states it, repetitions once."""
    # Only the figures of whole parts: Arrow ends the process where those of a column are damaged.
    parts = [metadata.row_group(group) for group in groups]
    return sum(part.total_byte_size + _VALUE_BYTES * part.num_rows for part in parts)


class ParquetPictures(LazyPictures):
    """Encoded pictures that stay in their files; the parts read last are kept in memory.

    Args:
        files: The files.
        column: The column of the pictures: bytes, or a struct with `bytes`.
        name: Name of the table for messages.
    """

    def __init__(self, files: Sequence[Path], column: str, name: str) -> None:
        self._column = column
        self._name = name
        self._states = {path: file_state(path) for path in files}
        self._groups: list[tuple[Path, int]] = []
        self._kept: dict[int, Any] = {}
        sizes = []
        for path in files:
            with opened(path) as file:
                groups = range(file.metadata.num_row_groups)
                self._groups += [(path, group) for group in groups]
                sizes += [file.metadata.row_group(group).num_rows for group in groups]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _source(self, index: int) -> tuple[bytes, str]:
        group = int(np.searchsorted(self._ends, index, side="right"))
        values = self._kept.pop(group, None)
        if values is None:
            values = self._read(group)
            while self._kept and sum(v.nbytes for v in self._kept.values()) > _KEPT_BYTES:
                self._kept.pop(next(iter(self._kept)))
        self._kept[group] = values
        content = values[index - int(self._ends[group])].as_py()
        if content is None:
            raise DataError(f"expected a picture in row {index} of {self._name}, it is empty")
        return content, f"row {index} of {self._name}"

    def _read(self, group: int) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        path, part = self._groups[group]
        if file_state(path) != self._states[path]:
            raise DataError(f"expected {path} as it was opened, it has changed: start again")
        with opened(path) as file:
            require_unpacked(path, weight(file.metadata, [part]))
            parts, size = [], 0
            for batch in _batches(file, row_groups=[part], columns=[self._column]):
                values = batch.column(0)
                is_struct = pa.types.is_struct(values.type)
                parts.append(pc.struct_field(values, "bytes") if is_struct else values)
                size += batch.nbytes
                require_unpacked(path, size)
            rows, found = file.metadata.row_group(part).num_rows, sum(map(len, parts))
            if found != rows:  # a picture would take the place of another
                raise DataError(f"expected {rows} rows in part {part} of {path}, got {found}")
        return pa.chunked_array(parts)
