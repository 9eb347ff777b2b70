"""What is added to the training split of a data set; validation and test stay what they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.data import loading
from train.data.labelled import NO_LABEL, Kind, LabelledData, Splits, joined
from train.data.layouts import image_folder, layout_of, tables
from train.data.pictures import SUFFIXES, PictureFiles
from train.errors import DataError


def with_extra(splits: Splits, name: str | None, *, limit: int | None = None) -> Splits:
    """Append the training split of another data set; labels are matched by name.

    Args:
        splits: What it is added to.
        name: The other data set, for example what `train harvest` wrote; None adds nothing.
        limit: At most so many inputs of it.

    Raises:
        DataError: It is missing or unreadable, has classes that the data lacks, or holds inputs of
            another kind.
    """
    if name is None:
        return splits
    extra = loading.load_train(name, limit=limit)
    _check_kind(extra, splits, name)
    unknown = loading.unknown_labels(extra, splits.label_names)
    if unknown:
        raise DataError(
            f"expected in {name} no other classes than the {len(splits.label_names)} of the data "
            f"({', '.join(splits.label_names[:5])} ...), it also has {unknown[:5]}: take data of "
            "the same classes"
        )
    return _appended(splits, loading.renumbered(extra, splits.label_names), name)


def with_unlabelled(splits: Splits, name: str | None, *, limit: int | None = None) -> Splits:
    """Append inputs without labels; see `load_unlabelled`.

    Raises:
        DataError: They are missing, unreadable or of another kind.
    """
    if name is None:
        return splits
    unlabelled = load_unlabelled(name, splits.label_names, limit=limit)
    _check_kind(unlabelled, splits, name)
    return _appended(splits, unlabelled, name)


def load_unlabelled(
    name: str, label_names: tuple[str, ...], *, limit: int | None = None
) -> LabelledData:
    """Load inputs without their labels, which are all `NO_LABEL`.

    Args:
        name: A folder of pictures, also in folders under it (of `train` alone where there is one),
            a table of texts or pictures with or without labels, or a data set that `load` takes:
            its training split.
        label_names: The classes they could have.
        limit: At most so many inputs.

    Raises:
        DataError: There is nothing, or nothing that can be read.
    """
    inputs, ids, kind = _unlabelled(name, limit)
    labels = np.full(len(inputs), NO_LABEL, np.int64)
    data = LabelledData(inputs, labels, ids, label_names, kind)
    return data if limit is None else data.limited(limit)


def _unlabelled(name: str, limit: int | None) -> tuple[Sequence[Any], tuple[str, ...], Kind]:
    path = Path(name)
    layout = layout_of(path) if path.is_dir() else None
    if path.is_dir() and layout in {None, image_folder}:
        return _pictures(path)
    if path.is_file() or layout is tables:
        inputs, kind = tables.read_inputs(path)
        return inputs, tuple(f"train-{i}" for i in range(len(inputs))), kind
    data = loading.load_train(name, limit=limit)
    return data.inputs, data.ids, data.kind


def _pictures(folder: Path) -> tuple[Sequence[Any], tuple[str, ...], Kind]:
    root = folder / "train" if (folder / "train").is_dir() else folder
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(
            f"expected pictures ({', '.join(sorted(SUFFIXES))}) in {root}, found none: name a "
            "folder of them, or a data set"
        )
    return PictureFiles(files), tuple(str(p.relative_to(root)) for p in files), "image"


def _check_kind(more: LabelledData, splits: Splits, name: str) -> None:
    if more.kind != splits.train.kind:
        raise DataError(
            f"expected {splits.train.kind}s as in the data, {name} holds {more.kind}s: take others"
        )


def _appended(splits: Splits, more: LabelledData, name: str) -> Splits:
    # Row numbers are the ids of many sets: the name keeps them apart.
    ids = tuple(f"{name}:{i}" for i in more.ids)
    train = joined([splits.train, dataclasses.replace(more, ids=ids)])
    return dataclasses.replace(splits, train=train)
