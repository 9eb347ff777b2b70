"""Food-101 as published: `images/<class>/*.jpg`, and lists of the train and test pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data.labelled import LabelledData
from train.data.pictures import PictureFiles
from train.errors import DataError


def matches(folder: Path) -> bool:
    """Return whether there is the list of the training pictures."""
    return (folder / "meta" / "train.txt").is_file()


def read(folder: Path) -> dict[str, LabelledData]:
    """Read train and test."""
    classes = folder / "meta" / "classes.txt"
    if not classes.is_file():
        raise DataError(f"expected the classes in {classes}, it is missing")
    names = tuple(classes.read_text(encoding="utf-8").split())
    lists = {split: folder / "meta" / f"{split}.txt" for split in ("train", "test")}
    return {
        s: _split(folder / "images", path, names) for s, path in lists.items() if path.is_file()
    }


def _split(images: Path, listed: Path, names: tuple[str, ...]) -> LabelledData:
    entries = listed.read_text(encoding="utf-8").split()
    numbers = {name: i for i, name in enumerate(names)}
    unknown = sorted({entry.split("/")[0] for entry in entries} - set(names))
    if unknown:
        raise DataError(f"expected classes of classes.txt in {listed}, got {unknown[:3]}")
    labels = np.array([numbers[entry.split("/")[0]] for entry in entries], np.int64)
    paths = [images / f"{entry}.jpg" for entry in entries]
    return LabelledData(PictureFiles(paths), labels, tuple(entries), names)
