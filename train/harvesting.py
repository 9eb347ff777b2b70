"""Reads recorders' folders as rows of a table of pictures: each picture once, damage counted."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from edge_runtime.errors import InputError
from edge_runtime.inputs import read_array
from edge_runtime.records import Record, read_records
from train.errors import DataError

_ROWS_AT_ONCE = 256
_BYTES_AT_ONCE = 32 << 20
_PICTURE_RANK = 3
_COLOURS = 3


@dataclass(frozen=True)
class Row:
    """What became of one record.

    Attributes:
        fate: `kept`, `duplicates`, `under_minimum` or `damaged`.
        label: Class name.
        confidence: M_L's; NaN where its engine gave none.
        picture: Encoded, without loss; empty where the row was not kept.
    """

    fate: str
    label: str = ""
    confidence: float = float("nan")
    picture: bytes = b""


@dataclass(frozen=True)
class Harvest:
    """The records of several folders.

    Attributes:
        entries: (folder, record), the newest first.
        damaged: Lines that were none.
    """

    entries: tuple[tuple[Path, Record], ...]
    damaged: int

    @classmethod
    def read(cls, folders: Iterable[Path], names: Sequence[str], source: str) -> Harvest:
        """Read the lines of the folders; no picture is read yet.

        Args:
            folders: What recorders wrote.
            names: The class names that may occur.
            source: Where the names come from, for messages.

        Raises:
            InputError: A folder holds no records.
            DataError: M_L answered with another class.
        """
        found = [(folder, read_records(folder)) for folder in folders]
        entries = [(folder, record) for folder, records in found for record in records.entries]
        unknown = sorted({record.label for _, record in entries} - set(names))
        if unknown:
            raise DataError(
                f"expected the {len(names)} classes of {source} ({', '.join(names[:5])} ...) in "
                f"the records, they also have {unknown[:5]}: name what the device's model was "
                "trained for as --labels-from"
            )
        entries.sort(key=lambda entry: entry[1].time, reverse=True)
        return cls(tuple(entries), sum(records.damaged for _, records in found))

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self, min_confidence: float | None) -> Iterator[Row]:
        """Read the pictures, and yield what becomes of each record.

        Args:
            min_confidence: Records under it are left out, and those without a confidence; None
                keeps them all.
        """
        seen: set[bytes] = set()
        for folder, record in self.entries:
            if min_confidence is not None and not record.confidence >= min_confidence:
                yield Row("under_minimum")
                continue
            picture = _picture(folder / record.file)
            digest = b"" if picture is None else _digest(picture)
            if picture is None or digest in seen:
                yield Row("damaged" if picture is None else "duplicates")
                continue
            seen.add(digest)
            yield Row("kept", record.label, record.confidence, _encoded(picture))


def write_table(rows: Iterable[Row], names: Sequence[str], file: Path, total: int) -> Counter[str]:
    """Write the kept rows as a parquet file that the `datasets` library knows as pictures.

    Args:
        rows: What became of each record.
        names: Class names in the order of their numbers.
        file: The file.
        total: How many rows there are, for the progress bar.

    Returns:
        How many records met each fate, and `read`: all of them.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=list(names)),
        confidence=datasets.Value("float32"),
    )
    schema, numbers = features.arrow_schema, {name: i for i, name in enumerate(names)}
    counts: Counter[str] = Counter()
    waiting: list[dict[str, Any]] = []
    waiting_bytes = 0
    with pq.ParquetWriter(file, schema) as writer:
        for row in tqdm(rows, total=total, unit="record", disable=None):
            counts.update(["read", row.fate])
            if row.fate == "kept":
                image = {"bytes": row.picture, "path": None}
                waiting.append(
                    {"image": image, "label": numbers[row.label], "confidence": row.confidence}
                )
            waiting_bytes += len(row.picture)
            if len(waiting) == _ROWS_AT_ONCE or waiting_bytes >= _BYTES_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting, waiting_bytes = [], 0
        writer.write_table(pa.Table.from_pylist(waiting, schema))
    return counts


def _picture(file: Path) -> npt.NDArray[np.uint8] | None:
    """Return a recorded picture, or None where it is gone, damaged, or no picture."""
    try:
        found = read_array(file)
    except InputError:
        return None
    is_picture = found.dtype == np.uint8 and found.ndim == _PICTURE_RANK
    return found if is_picture and found.shape[-1] == _COLOURS and found.size else None


def _digest(picture: npt.NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(str(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()


def _encoded(picture: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
