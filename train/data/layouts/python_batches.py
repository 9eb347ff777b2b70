"""CIFAR-10 and CIFAR-100 as published: pickled batches, read without running what they hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.data.labelled import LabelledData
from train.errors import DataError

_SIDE = 32
_CHANNELS = 3
_TEN = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_HUNDRED = {"train": ["train"], "test": ["test"]}
# All that such files are made of besides plain Python values.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def matches(folder: Path) -> bool:
    """Return whether there are batches of CIFAR-10, or the two files and the names of CIFAR-100."""
    hundred = all((folder / name).is_file() for name in ("train", "test", "meta"))
    return hundred or any(folder.glob("data_batch_*"))


def read(folder: Path) -> dict[str, LabelledData]:
    """Read train and test; CIFAR-100 gives its hundred fine classes."""
    hundred = (folder / "meta").is_file()
    key, meta = ("fine_label", "meta") if hundred else ("label", "batches.meta")
    names = tuple(_text(n) for n in _get(_load(folder / meta), f"{key}_names", folder / meta))
    found = {}
    for split, files in (_HUNDRED if hundred else _TEN).items():
        paths = [folder / name for name in files if (folder / name).is_file()]
        if paths:
            found[split] = _split(paths, f"{key}s", names, split)
    return found


def _split(paths: list[Path], key: str, names: tuple[str, ...], split: str) -> LabelledData:
    parts = [_batch(path, key) for path in paths]
    images = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([numbers for _, numbers in parts])
    return LabelledData(
        list(images), labels, tuple(f"{split}-{i}" for i in range(len(labels))), names
    )


def _batch(path: Path, key: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    content = _load(path)
    pixels, labels = np.asarray(_get(content, "data", path)), np.asarray(_get(content, key, path))
    if pixels.shape != (len(labels), _CHANNELS * _SIDE * _SIDE) or pixels.dtype != np.uint8:
        raise DataError(
            f"expected uint8 [{len(labels)}, {_CHANNELS * _SIDE * _SIDE}] as data in {path}, got "
            f"{pixels.dtype} {list(pixels.shape)}"
        )
    images = pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _get(content: Any, key: str, path: Path) -> Any:
    # Written by Python 2: the keys are bytes.
    for name in (key.encode(), key):
        if isinstance(content, dict) and name in content:
            return content[name]
    raise DataError(f"expected {key} in {path}: it is no batch of CIFAR")


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle raises nearly anything
        raise DataError(f"expected a batch of CIFAR at {path}, it is damaged: {error}") from None


class _PlainUnpickler(pickle.Unpickler):
    """Makes numpy arrays and plain values, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise DataError(
                f"expected plain arrays in a batch, it asks for {module}.{name}: refused"
            )
        return super().find_class(module, name)
