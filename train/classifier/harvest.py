"""Turns recorders' folders into a table of pictures: each picture once, damaged records counted."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.errors import InputError
from edge_runtime.files import fresh_folder
from edge_runtime.inputs.pictures import read_array
from edge_runtime.recording.records import Record, read_records
from train import data
from train.classifier.settings import HarvestSettings
from train.errors import DataError
from train.training.output import explain_full_disk, refuse_existing, settings_record

TABLE = "train-00000-of-00001.parquet"
COUNTS = "harvest.json"

_WORDS = {
    "read": "read",
    "kept": "kept",
    "duplicates": "duplicates",
    "under_minimum": "under the minimum",
    "damaged": "damaged",
}
_ROWS_AT_ONCE = 256
_BYTES_AT_ONCE = 32 << 20
_PICTURE_RANK = 3
_COLOURS = 3


def harvest(settings: HarvestSettings) -> None:
    """Read the records, and write the data set with its counts."""
    refuse_existing(settings.out, overwrite=settings.overwrite)
    names = label_names(settings.labels_from)
    records = Harvest.read(settings.records, names, settings.labels_from)
    disk = explain_full_disk(settings.out.parent, " and rerun")
    with disk, fresh_folder(settings.out) as fresh:
        rows = records.rows(settings.min_confidence)
        counts = write_table(rows, names, fresh / TABLE, len(records))
        counts.update({"read": records.damaged, "damaged": records.damaged})
        if not counts["kept"]:
            raise DataError(f"expected a record to keep, got none: {_summary(counts)}")
        record = {**settings_record("harvest", settings), "counts": _ordered(counts)}
        text = json.dumps(record, indent=2, default=str) + "\n"
        (fresh / COUNTS).write_text(text, encoding="utf-8")
    print(f"{settings.out}: {_summary(counts)}", flush=True)


def label_names(source: str) -> tuple[str, ...]:
    """Return the class names of a bundle, a checkpoint or a data set, in its order.

    Raises:
        BundleError: The bundle is damaged.
        CheckpointError: The checkpoint is damaged.
        DataError: It is none of the three.
    """
    folder = Path(source)
    if (folder / contract.BUNDLE_FILE).is_file():
        return read_bundle(folder).metadata.labels
    if (folder / "config.json").is_file():
        from train.models import open_checkpoint  # the other two do without torch

        return open_checkpoint(folder, kind=None).labels
    return data.load_train(source).label_names


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {key: counts[key] for key in _WORDS}


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {_WORDS[key]}" for key, count in _ordered(counts).items())


@dataclass(frozen=True)
class Row:
    """The outcome of one record.

    Attributes:
        fate: `kept`, `duplicates`, `under_minimum` or `damaged`.
        label: Class name.
        confidence: M_L's; NaN if its engine gave none.
        picture: Encoded without loss; empty if the row was not kept.
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
        damaged: Number of damaged lines.
    """

    entries: tuple[tuple[Path, Record], ...]
    damaged: int

    @classmethod
    def read(cls, folders: Iterable[Path], names: Sequence[str], source: str) -> Harvest:
        """Read the lines of recorders' folders; the pictures are read later.

        Raises:
            InputError: A folder holds no records.
            DataError: M_L answered with a class that is not among the names of the source.
        """
        found = [(folder, read_records(folder)) for folder in folders]
        entries = [(folder, record) for folder, records in found for record in records.entries]
        unknown = sorted({record.label for _, record in entries} - set(names))
        if unknown:
            raise DataError(
                f"expected the {len(names)} classes of {source} ({', '.join(names[:5])} ...) in "
                f"the records, got also {unknown[:5]}: use the data that the device's model was "
                "trained for as --labels-from"
            )
        entries.sort(key=lambda entry: entry[1].time, reverse=True)
        return cls(tuple(entries), sum(records.damaged for _, records in found))

    def __len__(self) -> int:
        return len(self.entries)

    def rows(self, min_confidence: float | None) -> Iterator[Row]:
        """Read the pictures, and yield the outcome of each record.

        A record without a confidence lies under every minimum.
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
            yield Row("kept", record.label, record.confidence, _encode(picture))


def write_table(rows: Iterable[Row], names: Sequence[str], file: Path, total: int) -> Counter[str]:
    """Write the kept rows as a parquet file that the `datasets` library reads as pictures.

    Returns:
        The number of records of each fate, and of all records as `read`.
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
    """Return a recorded picture, or None if it is missing, damaged, or not a picture."""
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


def _encode(picture: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
