"""Finds a data set by name: built in, on disk, or a Hugging Face name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.data.labelled import LabelledData, Picture, Splits, split_stratified
from train.errors import DataError

DIGITS = "digits"
DIGITS_MORE = "digits-more"
_CARVED_SHARE = 0.1
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


def load(name: str, *, seed: int = 0, limit: int | None = None) -> Splits:
    """Load a data set of labelled pictures.

    Args:
        name: `digits` or `digits-more` (built in), a folder (image folder or parquet files), a
            parquet file, or the name of a Hugging Face data set.
        seed: Seed of splits that have to be carved out: a tenth of `train` where `validation` is
            missing, a tenth where `test` is.
        limit: At most so many pictures a split.

    Raises:
        DataError: It is missing or unreadable, or has no usable labels.
    """
    if name in {DIGITS, DIGITS_MORE}:
        from train.data import digits

        splits = digits.load(more=name == DIGITS_MORE)
    else:
        splits = _carve({k: _as_images(v, k) for k, v in _open(name).items()}, seed)
    present = np.unique(splits.train.labels)
    if present.size < 2:  # noqa: PLR2004 - a single class leaves nothing to tell apart
        raise DataError(f"expected at least 2 classes in {name}, got {present.size}")
    return splits.limited(limit)


def _open(name: str) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    path = Path(name)
    try:
        if path.is_file():
            return dict(datasets.load_dataset(_builder(path), data_files=str(path)))
        if path.is_dir():
            return _open_folder(path, datasets)
        _refuse_missing_path(name)
        return dict(datasets.load_dataset(name))
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - datasets raises many unrelated classes
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"expected {DIGITS!r}, a folder, a parquet file or a Hugging Face data set, {name!r} "
            f"does not open: {reason}"
        ) from None


def _builder(path: Path) -> str:
    if path.suffix not in _BUILDERS:
        raise DataError(f"expected a file {', '.join(_BUILDERS)}, got {path}")
    return _BUILDERS[path.suffix]


def _refuse_missing_path(name: str) -> None:
    # Hub names are NAME or OWNER/NAME: anything else is a path, and asking the hub takes long.
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if is_path or Path(name).suffix in _BUILDERS:
        raise DataError(f"expected a data set at {name}, nothing is there: check the path")


def _open_folder(path: Path, datasets: Any) -> dict[str, Any]:
    files = {
        split: sorted(str(p) for p in path.glob(f"{split}*.parquet"))
        for split in ("train", *_VALIDATION_NAMES, "test")
    }
    files = {split: found for split, found in files.items() if found}
    if files:
        return dict(datasets.load_dataset("parquet", data_files=files))
    if not any(p.is_dir() for p in path.iterdir()):
        raise DataError(f"expected parquet files or folders of pictures in {path}, found neither")
    return dict(datasets.load_dataset("imagefolder", data_dir=str(path)))


def _as_images(table: Any, split: str) -> LabelledData:
    columns = table.column_names
    image = next((c for c in ("image", "img") if c in columns), None)
    label = next((c for c in ("label", "labels", "fine_label") if c in columns), None)
    if image is None or label is None:
        raise DataError(f"expected the columns image and label in {split}, got {columns}")
    values = np.asarray(table[label][:], dtype=object)
    if any(v is None for v in values):
        raise DataError(f"expected a label for every picture in {split}, some are missing")
    names = getattr(table.features[label], "names", None)
    try:
        labels = values.astype(np.int64)
    except ValueError:
        raise DataError(
            f"expected whole numbers as labels in {split}, got {values[0]!r}: number the classes, "
            "or store them as a ClassLabel"
        ) from None
    if names is None:
        names = [str(i) for i in range(int(labels.max()) + 1)]
    ids = tuple(f"{split}-{i}" for i in range(len(labels)))
    return LabelledData(_Pictures(table, image), labels, ids, tuple(names))


class _Pictures(Sequence[Picture]):
    """The picture column of a table, decoded to RGB when a row is asked for."""

    def __init__(self, table: Any, column: str) -> None:
        self._table = table
        self._column = column

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        try:
            return np.asarray(self._table[int(index)][self._column].convert("RGB"))
        except Exception as error:  # noqa: BLE001 - Pillow raises many unrelated classes
            raise DataError(f"picture {index} is unreadable: {error}") from None


def _carve(found: dict[str, LabelledData], seed: int) -> Splits:
    train = found.get("train")
    if train is None:
        raise DataError(f"expected a split named train, got {', '.join(found)}")
    test = found.get("test")
    validation = next((found[n] for n in _VALIDATION_NAMES if n in found), None)
    for split, part in found.items():
        if not set(part.label_names) <= set(train.label_names):
            extra = sorted(set(part.label_names) - set(train.label_names))
            raise DataError(f"expected the classes of train in {split}, it also has {extra[:5]}")
    if test is None:
        rows, rest = split_stratified(train.labels, _CARVED_SHARE, seed)
        test, train = train.take(rows), train.take(rest)
    if validation is None:
        rows, rest = split_stratified(train.labels, _CARVED_SHARE, seed + 1)
        validation, train = train.take(rows), train.take(rest)
    return Splits(train, validation, test)
