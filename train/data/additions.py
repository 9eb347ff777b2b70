"""Additions to the training split of a data set; validation and test stay unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.files import files_under
from edge_runtime.names import file_name
from train.data import sets
from train.data.labelled import NO_LABEL, Kind, LabelledData, Splits, join
from train.data.layouts import IMAGE_FOLDER, TABLES, layout_of, tables
from train.data.pictures import SUFFIXES, PictureFiles
from train.errors import DataError


def with_extra(splits: Splits, name: str | None, *, limit: int | None = None) -> Splits:
    """Append the training split of another data set, at most `limit` inputs; None adds nothing.

    Labels are matched by name.

    Raises:
        DataError: It is missing or unreadable, has classes that the data lacks, or holds inputs of
            another kind.
    """
    if name is None:
        return splits
    extra = sets.load_train(name, limit=limit)
    _require_kind(extra, splits, name)
    unknown = sets.unknown_labels(extra, splits.label_names)
    if unknown:
        raise DataError(
            f"expected in {name} only the {len(splits.label_names)} classes of the data "
            f"({', '.join(splits.label_names[:5])} ...), got also {unknown[:5]}: use data of the "
            "same classes"
        )
    return _append(splits, sets.renumber(extra, splits.label_names), name)


def with_unlabelled(splits: Splits, name: str | None, *, limit: int | None = None) -> Splits:
    """Append inputs without labels, as `load_unlabelled` reads them.

    Raises:
        DataError: They are missing, unreadable or of another kind.
    """
    if name is None:
        return splits
    unlabelled = load_unlabelled(name, splits.label_names, limit=limit)
    _require_kind(unlabelled, splits, name)
    return _append(splits, unlabelled, name)


def load_unlabelled(
    name: str, label_names: tuple[str, ...], *, limit: int | None = None
) -> LabelledData:
    """Load inputs without their labels, which all become `NO_LABEL`.

    Args:
        name: A folder of pictures, also in its subfolders (only in `train` if there is one), a
            table of texts or pictures with or without labels, or a data set for `load`: its
            training split.
        label_names: The classes they could have.
        limit: Largest number of inputs.

    Raises:
        DataError: There are no inputs, or they cannot be read.
    """
    inputs, ids, kind = _unlabelled(name, limit)
    labels = np.full(len(inputs), NO_LABEL, np.int64)
    data = LabelledData(inputs, labels, ids, label_names, kind)
    return data if limit is None else data.limited(limit)


def _unlabelled(name: str, limit: int | None) -> tuple[Sequence[Any], tuple[str, ...], Kind]:
    path = Path(name)
    layout = layout_of(path) if path.is_dir() else None
    if path.is_dir() and layout in {None, IMAGE_FOLDER}:
        return _pictures(path)
    if path.is_file() or layout is TABLES:
        inputs, kind = tables.read_inputs(path)
        return inputs, tuple(f"train-{i}" for i in range(len(inputs))), kind
    data = sets.load_train(name, limit=limit)
    return data.inputs, data.ids, data.kind


def _pictures(folder: Path) -> tuple[Sequence[Any], tuple[str, ...], Kind]:
    root = folder / "train" if (folder / "train").is_dir() else folder
    found, closed = files_under(root)
    if closed:
        raise DataError(f"expected folders that can be read in {root}, {closed[0]} cannot")
    files = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not files:
        raise DataError(
            f"expected pictures ({', '.join(sorted(SUFFIXES))}) in {root}, found none: name a "
            "folder of pictures, or a data set"
        )
    return PictureFiles(files), tuple(file_name(p.relative_to(root)) for p in files), "image"


def _require_kind(more: LabelledData, splits: Splits, name: str) -> None:
    if more.kind != splits.train.kind:
        raise DataError(
            f"expected {splits.train.kind}s as in the data, got {more.kind}s in {name}: use others"
        )


def _append(splits: Splits, more: LabelledData, name: str) -> Splits:
    # Many sets have row numbers as ids: the name keeps them apart.
    ids = tuple(f"{name}:{i}" for i in more.ids)
    train = join([splits.train, dataclasses.replace(more, ids=ids)])
    return dataclasses.replace(splits, train=train)
