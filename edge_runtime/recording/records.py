"""The format of a recorder's folder: one line per deferred input, and the input in a file.

    FOLDER/records.jsonl                   one JSON object per line, appended
    FOLDER/1764017280123456789-9f3c.png    the original input, lossless

An input is written before its line, so every readable line has its input.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_runtime.errors import InputError
from edge_runtime.names import class_name

RECORDS_FILE: Final = "records.jsonl"
_NUMBERS: Final = ("confidence", "small_confidence", "threshold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One deferred input that M_L answered.

    Attributes:
        model: M_L's name on its server.
        label: M_L's class name.
        confidence: M_L's confidence; NaN where its engine reports none.
        small_label: M_S's class name.
        small_confidence: M_S's confidence; may be NaN.
        threshold: The threshold of the decision; NaN stands for infinities.
        file: Name of the input's file in the folder.
        time: Time of the answer, UTC, ISO 8601.
    """

    model: str
    label: str
    confidence: float
    small_label: str
    small_confidence: float
    threshold: float
    file: str = ""
    time: str = ""

    def to_line(self) -> bytes:
        """Return the record as a line of JSON, with null for NaN."""
        fields = dataclasses.asdict(self)
        for name in _NUMBERS:
            fields[name] = fields[name] if math.isfinite(fields[name]) else None
        return json.dumps(fields, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Record:
        """Read a line, or raise a `ValueError` if it is incomplete or not a record."""
        fields = json.loads(line)
        names = {item.name for item in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or not names <= fields.keys():
            raise ValueError(f"expected the keys {sorted(names)}")
        values = {name: _value(name, fields[name]) for name in names}
        values |= {name: class_name(values[name]) for name in ("label", "small_label")}
        # The line must not lead outside the folder, whoever wrote it.
        if Path(values["file"]).name != values["file"]:
            raise ValueError(f"expected the name of a file, got {values['file']!r}")
        return cls(**values)


@dataclass(frozen=True)
class Records:
    """The readable records of a folder, in the order they were written.

    Unreadable lines, the last one after a kill for example, are counted as `damaged`.
    """

    entries: tuple[Record, ...]
    damaged: int


def read_records(folder: Path | str) -> Records:
    """Read the records of a folder; damaged lines are skipped and counted.

    Raises:
        InputError: There is no `records.jsonl`, or it cannot be read.
    """
    file = Path(folder) / RECORDS_FILE
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"expected {RECORDS_FILE} in {folder}, got {error.strerror}: name a folder that "
            "`edge_runtime run --record` or a Recorder wrote"
        ) from None
    entries, damaged = [], 0
    for line in filter(None, lines):
        try:
            entries.append(Record.from_line(line))
        except (ValueError, TypeError, OverflowError, RecursionError):
            damaged += 1
    return Records(tuple(entries), damaged)


def _value(name: str, value: Any) -> Any:
    if name not in _NUMBERS:
        if not isinstance(value, str):
            raise TypeError(f"expected {name} as text, got {value!r}")
        return value
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected {name} as a number, got {value!r}")
    return float(value)
