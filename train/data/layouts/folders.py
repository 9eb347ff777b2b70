"""Folders of picture files: one folder per class, and TinyImageNet and Food-101 as published.

The test pictures of TinyImageNet have no labels: its validation split becomes `validation`, and a
test split is carved out of `train`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_runtime.files import is_hidden
from edge_runtime.names import class_name, file_name
from edge_runtime.reading import read_text
from train.data.labelled import LabelledData
from train.data.layouts.tables import SPLITS
from train.data.pictures import SUFFIXES, PictureFiles
from train.errors import DataError

_SHOWN_KINDS = 4


def matches_image_folder(folder: Path) -> bool:
    """Return whether a folder holds folders, or links that lead nowhere."""
    return any(p.is_dir() or _leads_nowhere(p) for p in folder.iterdir() if not is_hidden(p))


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def read_image_folder(folder: Path) -> dict[str, LabelledData]:
    """Read `<split>/<class>/*`, or `<class>/*` as `train`; classes are numbered by name.

    Raises:
        DataError: A class or the folder has no pictures.
    """
    splits = [name for name in SPLITS if (folder / name).is_dir()]
    if "train" not in splits:
        return {"train": _class_folders(folder, "train")}
    return {name: _class_folders(folder / name, name) for name in splits}


def _class_folders(folder: Path, split: str) -> LabelledData:
    visible = [path for path in folder.iterdir() if not is_hidden(path)]
    lost = next(filter(_leads_nowhere, visible), None)
    if lost is not None:
        raise DataError(
            f"expected a folder behind the link {lost}, it leads nowhere: mend the link"
        )
    _note_foreign(folder, [place for place in visible if place.is_dir()])
    named = sorted(
        (class_name(file_name(place.name)), place) for place in visible if place.is_dir()
    )
    pairs = [(path, name) for name, place in named for path in _pictures(place)]
    if not pairs:
        raise DataError(f"expected one folder of pictures per class in {folder}, found none")
    ids = [f"{split}/{file_name(path.relative_to(folder))}" for path, _ in pairs]
    return _labelled(pairs, list(dict(named)), ids, folder)


def _note_foreign(folder: Path, classes: Sequence[Path]) -> None:
    """Print how many files are left out because of their names, e.g. HEIC of a telephone."""
    kinds = Counter(
        path.suffix.lower() or "no suffix"
        for place in classes
        for path in place.iterdir()
        if path.suffix.lower() not in SUFFIXES and path.is_file() and not is_hidden(path)
    )
    if kinds:
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN_KINDS))
        print(
            f"note: files in {folder} are not read by their names ({shown}): save pictures as "
            "JPEG or PNG",
            file=sys.stderr,
        )


def _pictures(folder: Path) -> list[Path]:
    visible = [path for path in folder.iterdir() if not is_hidden(path)]
    found = sorted(path for path in visible if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"expected pictures of the class {folder.name} in {folder}, found none")
    inner = next((path for path in visible if path.is_dir()), None)
    if inner is not None:
        print(f"note: {inner} is not read: it is a folder in that of a class", file=sys.stderr)
    return found


def matches_tiny_imagenet(folder: Path) -> bool:
    """Return whether a folder holds the list of TinyImageNet's classes."""
    return (folder / "wnids.txt").is_file()


def read_tiny_imagenet(folder: Path) -> dict[str, LabelledData]:
    """Read train and validation; classes are WordNet ids, in the order of `wnids.txt`."""
    names = read_text(folder / "wnids.txt").split()
    train = [
        (path, name)
        for name in names
        for path in sorted((folder / "train" / name / "images").glob("*"))
        if path.suffix.lower() in SUFFIXES and not is_hidden(path)
    ]
    pairs = {"train": train}
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():
        pairs["validation"] = _annotated(annotations)
    found = {}
    for split, part in pairs.items():
        ids = [file_name(path.name) for path, _ in part]
        found[split] = _labelled(part, names, ids, folder / "wnids.txt")
    return found


def _annotated(annotations: Path) -> list[tuple[Path, str]]:
    pairs = []
    for number, line in enumerate(read_text(annotations).splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2:  # noqa: PLR2004 - a picture and its class, then a box
            raise DataError(f"expected a picture and its class in line {number} of {annotations}")
        pairs.append((annotations.parent / "images" / fields[0], fields[1]))
    return pairs


def matches_food101(folder: Path) -> bool:
    """Return whether a folder holds the list of Food-101's training pictures."""
    return (folder / "meta" / "train.txt").is_file()


def read_food101(folder: Path) -> dict[str, LabelledData]:
    """Read train and test from `images/<class>/*.jpg` and the lists of both splits."""
    classes = folder / "meta" / "classes.txt"
    if not classes.is_file():
        raise DataError(f"expected the classes in {classes}, it is missing")
    names = read_text(classes).split()
    found = {}
    for split in ("train", "test"):
        file = folder / "meta" / f"{split}.txt"
        if file.is_file():
            entries = read_text(file).split()
            pairs = [(folder / "images" / f"{e}.jpg", e.split("/")[0]) for e in entries]
            found[split] = _labelled(pairs, names, entries, classes)
    return found


def _labelled(
    pairs: Sequence[tuple[Path, str]], names: Sequence[str], ids: Sequence[str], source: Path
) -> LabelledData:
    """Return pairs of a picture and its class as a split; `source` names the classes."""
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"expected each class once in {source}, got {twice} twice: remove one")
    unknown = sorted({name for _, name in pairs} - set(names))
    if unknown:
        raise DataError(f"expected only the classes of {source}, got {unknown[:3]}")
    numbers = {name: i for i, name in enumerate(names)}
    labels = np.array([numbers[name] for _, name in pairs], np.int64)
    return LabelledData(PictureFiles([p for p, _ in pairs]), labels, tuple(ids), tuple(names))
