"""Where tasks are published, and the rows of their splits."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from train.data import hub
from train.data.tasks.rows import SUFFIXES, Row, read_rows, rows_of_table
from train.errors import DataError

Found = dict[str, list[Row]]
"""Split name (train, validation, test, dev) -> rows."""

DATA_VARIABLE: Final = "GATEKEEPER_DATA"
_DEFAULT_FOLDER: Final = "../shared/data"
_SPLIT: Final = re.compile(r"(train|validation|valid|val|dev|test)(?:[-_.]|$)", re.IGNORECASE)
_SAME: Final = {"valid": "validation", "val": "validation"}


@dataclass(frozen=True)
class Source:
    """Where one task is published.

    Attributes:
        folder: Its folder under `GATEKEEPER_DATA`.
        hub: Its name at Hugging Face.
        config: Its configuration there, also the folder of it in a copy.
        prefix: What the names of its original files open with.
    """

    folder: str
    hub: str
    config: str | None = None
    prefix: str = ""

    def place(self, data: str | None) -> Path | str:
        """Return the path, or the Hugging Face name, to read from.

        Raises:
            DataError: Nothing is at the path.
        """
        if data is not None:
            return existing(data)
        known = data_folder() / self.folder
        return known if known.is_dir() else self.hub

    def rows(self, place: Path | str) -> Found:
        """Return the rows of all splits.

        Raises:
            DataError: It is missing or damaged, or has no split.
        """
        if isinstance(place, str):
            return self._hub_rows(place)
        if place.is_file():
            return {split_of(place, self.prefix) or "train": read_rows(place)}
        files = self.files(place)
        return {split: [r for p in paths for r in read_rows(p)] for split, paths in files.items()}

    def files(self, folder: Path) -> dict[str, list[Path]]:
        """Return the tables of each split in a folder, or in that of the configuration in it.

        Raises:
            DataError: There are none.
        """
        inner = [folder / name for name in (self.config, "data") if name]
        for candidate in (folder, *inner):
            found = split_files(candidate, self.prefix)
            if found:
                return found
        raise DataError(
            f"expected tables named after splits ({self.prefix}train.jsonl, "
            f"test-00000-of-00001.parquet ...) in {folder}, found "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:4]) or 'nothing'}"
        )

    def _hub_rows(self, name: str) -> Found:
        # The configuration belongs to the published name; a copy of it may have another or none.
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


def existing(data: str) -> Path | str:
    """Return a path that is there, or a text that can be a Hugging Face name.

    Raises:
        DataError: It is a path, and nothing is there.
    """
    path = Path(data).expanduser()
    if path.exists():
        return path
    # Hub names are NAME or OWNER/NAME: anything else is a path, and asking the hub takes long.
    if data.startswith((".", "/", "~")) or data.count("/") > 1 or path.suffix in SUFFIXES:
        raise DataError(f"expected a folder or file at {data}, nothing is there: check the path")
    return data


def split_of(path: Path, prefix: str = "") -> str | None:
    """Return the split that a file is named after, or None."""
    name = path.name.lower().removeprefix(prefix.lower())
    match = _SPLIT.match(name)
    return _SAME.get(match.group(1), match.group(1)) if match else None


def split_files(folder: Path, prefix: str = "") -> dict[str, list[Path]]:
    """Return the tables in a folder by the split they are named after, each split of one kind."""
    if not folder.is_dir():
        return {}
    found: dict[str, list[Path]] = {}
    for suffix in SUFFIXES:
        kind: dict[str, list[Path]] = {}
        for path in sorted(p for p in folder.iterdir() if p.suffix == suffix and p.is_file()):
            split = split_of(path, prefix)
            if split is not None:
                kind.setdefault(split, []).append(path)
        # Some releases hold the same rows as jsonl and as csv: they are read once.
        found = {**kind, **found}
    return found
