"""TinyImageNet as published: `train/<wnid>/images/*`, and a list of the validation labels.

Its test pictures have no labels: the validation split becomes `validation`, and a test split is
carved out of `train`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data.labelled import LabelledData
from train.data.pictures import SUFFIXES, PictureFiles
from train.errors import DataError


def matches(folder: Path) -> bool:
    """Return whether there is the list of the classes."""
    return (folder / "wnids.txt").is_file()


def read(folder: Path) -> dict[str, LabelledData]:
    """Read train and validation; classes are WordNet ids, in the order of `wnids.txt`."""
    names = tuple((folder / "wnids.txt").read_text(encoding="utf-8").split())
    train = [
        (path, name)
        for name in names
        for path in sorted((folder / "train" / name / "images").glob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    found = {"train": _split(folder / "train", train, names)}
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():
        found["validation"] = _split(folder / "val", _listed(annotations), names)
    return found


def _listed(annotations: Path) -> list[tuple[Path, str]]:
    pairs = []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2:  # noqa: PLR2004 - a picture and its class, then a box
            raise DataError(f"expected a picture and its class in line {number} of {annotations}")
        pairs.append((annotations.parent / "images" / fields[0], fields[1]))
    return pairs


def _split(folder: Path, pairs: list[tuple[Path, str]], names: tuple[str, ...]) -> LabelledData:
    unknown = sorted({name for _, name in pairs} - set(names))
    if unknown:
        raise DataError(f"expected classes of wnids.txt in {folder}, got {unknown[:3]}")
    numbers = {name: i for i, name in enumerate(names)}
    labels = np.array([numbers[name] for _, name in pairs], np.int64)
    paths = [path for path, _ in pairs]
    return LabelledData(PictureFiles(paths), labels, tuple(p.name for p in paths), names)
