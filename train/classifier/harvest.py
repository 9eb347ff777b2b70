"""The command `python -m train harvest`: what a device recorded, as a data set."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from edge_runtime import contract
from edge_runtime.cli import Command, field
from edge_runtime.errors import InputError, SettingError
from edge_runtime.files import fresh_folder
from edge_runtime.pictures import read_array
from edge_runtime.recording.records import Record, read_records
from train.errors import DataError

# MERGEDOC train/harvesting.py: "Reads recorders' folders as rows of a table of pictures: each picture once, damage counted."

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


@dataclass(frozen=True, kw_only=True)
class HarvestSettings(Command):
    """Turn recorded inputs and the large model's answers into a data set, each picture once.

    Its labels are M_L's answers, in the order of the classes of --labels-from; a column holds M_L's
    confidence. Of a picture that was recorded several times the newest answer counts. What comes
    out goes with `tune --extra`, `distill --extra` and `distill --unlabelled`.

    Example: python -m train harvest --records recorded --labels-from runs/small --out runs/harvest
    """

    records: tuple[Path, ...] = field("folders that were recorded to, e.g. a,b")
    labels_from: str = field("bundle, checkpoint or data set whose classes are meant")
    out: Path = field("folder to write")
    min_confidence: float | None = field(
        "leave out answers that M_L was less sure of (default: keeps all)", default=None
    )
    overwrite: bool = field("replace the folder", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.records:
            raise SettingError("expected at least one folder for --records, got none")
        if self.min_confidence is not None and math.isnan(self.min_confidence):
            raise SettingError("expected a number as --min-confidence, got nan")

    def run(self) -> None:
        """Read the records, and write the data set with its counts."""
        from train.errors import DataError
        from train.training.output import (
            explain_full_disk,
            refuse_existing,
            settings_record,
        )

        refuse_existing(self.out, overwrite=self.overwrite)
        names = label_names(self.labels_from)
        harvest = Harvest.read(self.records, names, self.labels_from)
        with explain_full_disk(self.out.parent, " and run again"), fresh_folder(self.out) as fresh:
            counts = write_table(
                harvest.rows(self.min_confidence), names, fresh / TABLE, len(harvest)
            )
            counts.update({"read": harvest.damaged, "damaged": harvest.damaged})
            if not counts["kept"]:
                raise DataError(f"expected a record to keep, got none: {_summary(counts)}")
            record = {**settings_record("harvest", self), "counts": _ordered(counts)}
            text = json.dumps(record, indent=2, default=str) + "\n"
            (fresh / COUNTS).write_text(text, encoding="utf-8")
        print(f"{self.out}: {_summary(counts)}", flush=True)


def label_names(source: str) -> tuple[str, ...]:
    """Return the class names of a bundle, a checkpoint or a data set, in its order.

    Raises:
        BundleError: The bundle is damaged.
        CheckpointError: The checkpoint is damaged.
        DataError: It is none of the three.
    """
    from train import data

    folder = Path(source)
    if (folder / contract.BUNDLE_FILE).is_file():
        from edge_runtime.bundle import read_bundle

        return read_bundle(folder).metadata.labels
    if (folder / "config.json").is_file():
        from train.models import open_checkpoint

        return open_checkpoint(folder, kind=None).labels
    return data.load_train(source).label_names


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {key: counts[key] for key in _WORDS}


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {_WORDS[key]}" for key, count in _ordered(counts).items())


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
