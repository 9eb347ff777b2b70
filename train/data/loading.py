"""Finds a data set by name: built in, on disk, or a Hugging Face name."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from train.data import hub
from train.data.labelled import NO_LABEL, LabelledData, Splits, joined, split_stratified
from train.data.layouts import read_folder, tables
from train.errors import DataError

# MERGEDOC train/data/digits.py: "The built-in data set: scikit-learn's handwritten digits (1,797 real pictures of 8x8 pixels)."

DIGITS = "digits"
DIGITS_MORE = "digits-more"
_CARVED_SHARE = 0.1
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")

TRAIN_SHARE = 0.05
MORE_SHARE = 0.35
VALIDATION_SHARE = 0.2
_SPLIT_SEED = 0  # one split for every training seed, so that runs are compared on the same test
_BRIGHTEST = 16


def load(name: str, *, seed: int = 0, limit: int | None = None) -> Splits:
    """Load a data set of labelled pictures or texts.

    Args:
        name: `digits` or `digits-more` (built in), a folder in one of `train.data.layouts`, a
            table (parquet, csv, jsonl), or the name of a Hugging Face data set.
        seed: Seed of splits that have to be carved out: a tenth of `train` where `validation` is
            missing, a tenth where `test` is.
        limit: At most so many inputs a split.

    Raises:
        DataError: It is missing or unreadable, or has no usable labels.
    """
    if name in {DIGITS, DIGITS_MORE}:
        return load_built_in(more=name == DIGITS_MORE).limited(limit)
    splits = _carve(_found(name, limit), seed, name)
    _check_classes(splits, name)
    return splits.limited(limit)


def load_all(name: str) -> LabelledData:
    """Load every labelled input of a data set as one split, in the order of its splits.

    Raises:
        DataError: It is missing or unreadable, or has no usable labels.
    """
    if name in {DIGITS, DIGITS_MORE}:
        splits = load(DIGITS_MORE)
        return joined([splits.train, splits.validation, splits.test])
    found = _found(name)
    names = next(iter(found.values())).label_names
    return joined([_relabelled(part, names, split) for split, part in found.items()])


def load_train(name: str, *, limit: int | None = None) -> LabelledData:
    """Load the training split of a data set whole: nothing is carved out of it.

    Raises:
        DataError: It is missing or unreadable, or has no training split with usable labels.
    """
    if name in {DIGITS, DIGITS_MORE}:
        return load(name, limit=limit).train
    train = _train_of(_found(name, limit), name)
    return train if limit is None else train.limited(limit)


def _found(name: str, limit: int | None = None) -> dict[str, LabelledData]:
    found = _read(name, limit)
    for split, part in found.items():
        if (part.labels == NO_LABEL).any():
            raise DataError(f"expected a label in every row of {split} of {name}, got {NO_LABEL}")
    return found


def _read(name: str, limit: int | None) -> dict[str, LabelledData]:
    path = Path(name)
    if path.is_file():
        return tables.read_file(path)
    if path.is_dir():
        return read_folder(path)
    # Hub names are NAME or OWNER/NAME: anything else is a path, and asking the hub takes long.
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path or path.suffix in tables.BUILDERS:
        raise DataError(f"expected a data set at {name}, nothing is there: check the path")
    return hub.load(name, limit)


def _carve(found: dict[str, LabelledData], seed: int, name: str) -> Splits:
    train = _train_of(found, name)
    parts = {s: _relabelled(part, train.label_names, s) for s, part in found.items()}
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


def _relabelled(part: LabelledData, names: tuple[str, ...], split: str) -> LabelledData:
    """Number the labels of a split as train does: splits are matched by name, never by number."""
    if part.label_names == names:
        return part
    unknown = unknown_labels(part, names)
    if unknown:
        raise DataError(f"expected the classes of train in {split}, it also has {unknown[:5]}")
    return renumbered(part, names)


def unknown_labels(part: LabelledData, names: tuple[str, ...]) -> list[str]:
    """Return the classes that inputs of a split have and `names` lacks, sorted."""
    return sorted({part.label_names[i] for i in np.unique(part.labels)} - set(names))


def renumbered(part: LabelledData, names: tuple[str, ...]) -> LabelledData:
    """Return a split with its labels as indices into `names`, which holds all that are used."""
    numbers = {name: i for i, name in enumerate(names)}
    table = np.array([numbers.get(name, -1) for name in part.label_names], np.int64)
    return dataclasses.replace(part, labels=table[part.labels], label_names=names)


def _check_classes(splits: Splits, name: str) -> None:
    taught = set(np.unique(splits.train.labels).tolist())
    if len(taught) < 2:  # noqa: PLR2004 - a single class leaves nothing to tell apart
        raise DataError(f"expected at least 2 classes in {name}, got {len(taught)}")
    if len(splits.train) < len(splits.label_names):
        raise DataError(
            f"expected at least one training input of each of the {len(splits.label_names)} "
            f"classes of {name}, got {len(splits.train)} inputs of {len(taught)}: add inputs, or "
            "drop the classes"
        )
    _note_absent(splits.label_names, taught, "train", name)
    for split, part in (("validation", splits.validation), ("test", splits.test)):
        asked = set(np.unique(part.labels).tolist())
        if asked - taught:
            untaught = [splits.label_names[i] for i in sorted(asked - taught)]
            raise DataError(
                f"expected inputs of every class in train of {name}, {split} has the classes "
                f"{untaught[:5]} and train none of them"
            )
        _note_absent(splits.label_names, asked, split, name)


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

    The set is easy: with the usual 80 % to train on, a SmallCNN makes about one error in a hundred,
    too few to measure deferral with. So `digits` trains on 5 % (91 pictures), validates and
    calibrates on 20 % and tests on the rest. On so few pictures no model is better than the
    SmallCNN; an M_L worth asking trains on `digits-more`: the same and more, 35 % of the set, with
    the same validation and test pictures.

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
