"""Loads a data set by its name: built in, a path on disk, or a Hugging Face name."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from train.data import hub
from train.data.labelled import LabelledData, Splits, join, split_stratified
from train.data.layouts import read_folder, tables
from train.data.readable import without_unreadable
from train.errors import DataError

DIGITS = "digits"
DIGITS_MORE = "digits-more"
TRAIN_SHARE = 0.05
MORE_SHARE = 0.35
VALIDATION_SHARE = 0.2
_SPLIT_SEED = 0  # the same for every training seed, so that runs are compared on one test set
_BRIGHTEST = 16
_CARVED_SHARE = 0.1
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")


def load(
    name: str, *, seed: int = 0, limit: int | None = None, skip_unreadable: bool = False
) -> Splits:
    """Load a data set of labelled pictures or texts.

    Args:
        name: `digits` or `digits-more` (built in), a folder in one of `train.data.layouts`, a
            table (parquet, csv, jsonl), or the name of a Hugging Face data set.
        seed: Seed of splits that are carved out of `train`: a tenth for a missing `validation`, a
            tenth for a missing `test`.
        limit: Largest number of inputs per split.
        skip_unreadable: Leave out pictures that do not decode; each is decoded to find them.

    Raises:
        DataError: It is missing or unreadable, or has no usable labels.
    """
    if name in {DIGITS, DIGITS_MORE}:
        return load_built_in(more=name == DIGITS_MORE).limited(limit)
    splits = _carve(_read(name, limit), seed, name)
    splits = splits.limited(limit)
    if skip_unreadable:
        splits = without_unreadable(splits)
    _require_classes(splits, name)
    return splits


def load_all(name: str) -> LabelledData:
    """Load every labelled input of a data set as one split, in the order of its splits.

    Raises:
        DataError: It is missing or unreadable, or has no usable labels.
    """
    if name in {DIGITS, DIGITS_MORE}:
        splits = load(DIGITS_MORE)
        return join([splits.train, splits.validation, splits.test])
    found = _read(name)
    names = next(iter(found.values())).label_names
    return join([_relabel(part, names, split) for split, part in found.items()])


def load_train(name: str, *, limit: int | None = None) -> LabelledData:
    """Load the whole training split of a data set: nothing is carved out of it.

    Raises:
        DataError: It is missing or unreadable, or has no training split with usable labels.
    """
    if name in {DIGITS, DIGITS_MORE}:
        return load(name, limit=limit).train
    train = _train_of(_read(name, limit), name)
    return train if limit is None else train.limited(limit)


def _read(name: str, limit: int | None = None) -> dict[str, LabelledData]:
    path = Path(name).expanduser()
    if path.is_file():
        return tables.read_file(path)
    if path.is_dir():
        return read_folder(path)
    if not hub.is_name(name):
        raise DataError(f"expected a data set at {name}, nothing is there: check the path")
    return hub.load(name, limit)


def _carve(found: dict[str, LabelledData], seed: int, name: str) -> Splits:
    train = _train_of(found, name)
    parts = {s: _relabel(part, train.label_names, s) for s, part in found.items()}
    test = parts.get("test")
    validation = next((parts[n] for n in _VALIDATION_NAMES if n in parts), None)
    if test is None:
        test, train = _split_off(train, seed, name)
    if validation is None:
        validation, train = _split_off(train, seed + 1, name)
    return Splits(train, validation, test)


def _train_of(found: dict[str, LabelledData], name: str) -> LabelledData:
    if "train" not in found:
        raise DataError(f"expected a split named train in {name}, got {', '.join(found)}")
    return found["train"]


def _split_off(train: LabelledData, seed: int, name: str) -> tuple[LabelledData, LabelledData]:
    rows, rest = split_stratified(train.labels, _CARVED_SHARE, seed)
    if not rows.size:
        raise DataError(
            f"expected at least two inputs of a class in {name} to carve a split out of train, got "
            f"{len(train)} inputs of {len(train.label_names)} classes: add inputs or a split"
        )
    return train.take(rows), train.take(rest)


def _relabel(part: LabelledData, names: tuple[str, ...], split: str) -> LabelledData:
    """Renumber the labels of a split as in train: classes are matched by name, never by number."""
    if part.label_names == names:
        return part
    unknown = unknown_labels(part, names)
    if unknown:
        raise DataError(f"expected the classes of train in {split}, got also {unknown[:5]}")
    return renumber(part, names)


def unknown_labels(part: LabelledData, names: tuple[str, ...]) -> list[str]:
    """Return the classes of a split's inputs that are not in `names`, sorted."""
    return sorted({part.label_names[i] for i in np.unique(part.labels)} - set(names))


def renumber(part: LabelledData, names: tuple[str, ...]) -> LabelledData:
    """Return a split with its labels as indices into `names`, which holds all classes in use."""
    numbers = {name: i for i, name in enumerate(names)}
    table = np.array([numbers.get(name, -1) for name in part.label_names], np.int64)
    return dataclasses.replace(part, labels=table[part.labels], label_names=names)


def _require_classes(splits: Splits, name: str) -> None:
    taught = set(np.unique(splits.train.labels).tolist())
    if len(taught) < 2:  # noqa: PLR2004 - one class needs no classifier
        raise DataError(f"expected at least 2 classes in {name}, got {len(taught)}")
    if len(splits.train) < len(splits.label_names):
        raise DataError(
            f"expected at least one training input of each of the {len(splits.label_names)} "
            f"classes of {name}, got {len(splits.train)} inputs of {len(taught)}: add inputs, or "
            "drop the classes"
        )
    _note_absent(splits.label_names, taught, "train", name)
    for split, part in (("validation", splits.validation), ("test", splits.test)):
        present = set(np.unique(part.labels).tolist())
        if present - taught:
            untaught = [splits.label_names[i] for i in sorted(present - taught)]
            raise DataError(
                f"expected inputs of every class in train of {name}, got none of {untaught[:5]}, "
                f"which {split} has"
            )
        _note_absent(splits.label_names, present, split, name)


def _note_absent(names: tuple[str, ...], present: set[int], split: str, data: str) -> None:
    absent = [name for i, name in enumerate(names) if i not in present]
    if absent:
        print(
            f"note: {len(absent)} of {len(names)} classes of {data} have no input in {split} "
            f"({', '.join(absent[:5])})",
            file=sys.stderr,
        )


def load_built_in(*, more: bool = False) -> Splits:
    """Return the digits as RGB pictures.

    These are scikit-learn's handwritten digits, 1,797 real pictures of 8 x 8 pixels. The set is
    easy: with the usual 80 % for training, a SmallCNN makes about one error in a hundred, too few
    to measure deferral. So `digits` trains on 5 % (91 pictures), validates and calibrates on 20 %
    and tests on the rest. With so little data no model is better than the SmallCNN, so M_L trains
    on `digits-more`: 35 % of the set, including those 5 %, with the same validation and test
    pictures.

    Args:
        more: Return the larger training split.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / _BRIGHTEST)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    data = LabelledData(
        list(np.repeat(grey[..., None], 3, axis=-1)),
        labels,
        tuple(f"digits-{i}" for i in range(len(labels))),
        tuple(str(name) for name in digits.target_names),
    )
    pool, rest = split_stratified(labels, MORE_SHARE, _SPLIT_SEED)
    few, _ = split_stratified(labels[pool], TRAIN_SHARE / MORE_SHARE, _SPLIT_SEED + 1)
    inner, outer = split_stratified(
        labels[rest], VALIDATION_SHARE / (1 - MORE_SHARE), _SPLIT_SEED + 2
    )
    train = pool if more else pool[few]
    return Splits(data.take(train), data.take(rest[inner]), data.take(rest[outer]))
