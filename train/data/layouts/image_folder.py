"""Folders of pictures: `<split>/<class>/*`, or `<class>/*` for a single split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data.labelled import LabelledData
from train.data.pictures import SUFFIXES, PictureFiles
from train.errors import DataError

_SPLITS = ("train", "validation", "valid", "val", "dev", "test")


def matches(folder: Path) -> bool:
    """Return whether there are folders in it."""
    return any(p.is_dir() for p in folder.iterdir())


def read(folder: Path) -> dict[str, LabelledData]:
    """Read the splits; classes are numbered in the order of their names."""
    splits = [name for name in _SPLITS if (folder / name).is_dir()]
    if "train" not in splits:
        return {"train": read_split(folder, "train")}
    return {name: read_split(folder / name, name) for name in splits}


def read_split(folder: Path, split: str) -> LabelledData:
    """Read `<class>/*` of one folder.

    Raises:
        DataError: A class or the folder has no pictures.
    """
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    files = [(path, label) for label, name in enumerate(classes) for path in _files(folder / name)]
    if not files:
        raise DataError(f"expected folders of pictures, one a class, in {folder}, found none")
    labels = np.array([label for _, label in files], np.int64)
    paths = [path for path, _ in files]
    ids = tuple(f"{split}/{path.relative_to(folder)}" for path in paths)
    return LabelledData(PictureFiles(paths), labels, ids, tuple(classes))


def _files(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"expected pictures of the class {folder.name} in {folder}, found none")
    return found
