"""The places where tasks are published, and the rows of their splits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from train.data import hub
from train.data.layouts.columns import SUFFIXES
from train.data.tasks.rows import SplitRows, read_rows, rows_of_table
from train.errors import DataError

DATA_VARIABLE: Final = "GATEKEEPER_DATA"
_DEFAULT_FOLDER: Final = "../shared/data"
_SPLIT: Final = re.compile(r"(train|validation|valid|val|dev|test)(?:[-_.]|$)", re.IGNORECASE)
_SAME: Final = {"valid": "validation", "val": "validation"}


@dataclass(frozen=True)
class Source:
    """The place where one task is published.

    Attributes:
        folder: Its folder under `GATEKEEPER_DATA`.
        hub: Its name at Hugging Face.
        config: Its configuration there, and the name of that folder in a copy.
        prefix: Beginning of the names of its original files.
    """

    folder: str
    hub: str
    config: str | None = None
    prefix: str = ""

    def place(self, data: str | None) -> Path | str:
        """Return the path, or the Hugging Face name, to read from.

        Raises:
            DataError: `data` is a path that does not exist.
        """
        path = data_folder() / self.folder if data is None else Path(data).expanduser()
        if data is None:
            return path if path.is_dir() else self.hub
        if path.exists():
            return path
        if not hub.is_name(data):
            raise DataError(
                f"expected a folder or file at {data}, nothing is there: check the path"
            )
        return data

    def read(
        self, data: str | None, original: Callable[[Path], SplitRows | None] | None = None
    ) -> SplitRows:
        """Return the rows of all splits.

        Args:
            data: Folder, file or Hugging Face name; None for the task's own.
            original: Reader of the original release, tried first on a folder or file; it returns
                None for another layout.

        Raises:
            DataError: The data are missing or damaged, or have no split.
        """
        place = self.place(data)
        rows = original(place) if original is not None and isinstance(place, Path) else None
        return rows or self.rows(place)

    def rows(self, place: Path | str) -> SplitRows:
        """Return the rows of all splits in the Hugging Face layout.

        Raises:
            DataError: The data are missing or damaged, or have no split.
        """
        if isinstance(place, str):
            return self._hub_rows(place)
        if place.is_file():
            return {split_of(place, self.prefix) or "train": read_rows(place)}
        for name in ("", self.config, "data"):
            files = {} if name is None else split_files(place / name, self.prefix)
            if files:
                return {split: [r for p in ps for r in read_rows(p)] for split, ps in files.items()}
        raise DataError(
            f"expected tables named after splits ({self.prefix}train.jsonl, "
            f"test-00000-of-00001.parquet ...) in {place}, found "
            f"{', '.join(sorted(p.name for p in place.iterdir())[:4]) or 'nothing'}"
        )

    def _hub_rows(self, name: str) -> SplitRows:
        # The configuration belongs to the published name; a copy may have another one or none.
        config = self.config if name == self.hub else None
        tables = hub.open_tables(name, config)
        return {
            _SAME.get(split, split): rows_of_table(table, table.features, f"{split} of {name}")
            for split, table in tables.items()
            if _SPLIT.match(split)
        }


def data_folder() -> Path:
    """Return the folder of published data sets."""
    return Path(os.environ.get(DATA_VARIABLE) or _DEFAULT_FOLDER)


def split_of(path: Path, prefix: str = "") -> str | None:
    """Return the split that a file is named after, or None for another name."""
    name = path.name.lower().removeprefix(prefix.lower())
    match = _SPLIT.match(name)
    return _SAME.get(match.group(1), match.group(1)) if match else None


def split_files(folder: Path, prefix: str = "") -> dict[str, list[Path]]:
    """Return the tables in a folder by the split they are named after, one file type per split."""
    if not folder.is_dir():
        return {}
    files: dict[str, list[Path]] = {}
    for suffix in SUFFIXES:
        of_type: dict[str, list[Path]] = {}
        for path in sorted(p for p in folder.iterdir() if p.suffix == suffix and p.is_file()):
            split = split_of(path, prefix)
            if split is not None:
                of_type.setdefault(split, []).append(path)
        # Some releases hold the same rows as jsonl and as csv; they are read once.
        files = {**of_type, **files}
    return files
