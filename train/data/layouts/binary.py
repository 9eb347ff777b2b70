"""Binary files of pictures as published: CIFAR-10 and CIFAR-100, MNIST and Fashion-MNIST.

CIFAR comes as pickled batches, which `plain_pickle` reads without Python's unpickler; MNIST as idx
files, gzipped or not (LeCun et al., 1998).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.files import one_line
from edge_runtime.reading import read_bytes
from train.data.labelled import LabelledData
from train.data.layouts.plain_pickle import PlainPickleError, parse
from train.data.layouts.unpacking import require_unpacked
from train.errors import DataError

_SIDE = 32
_CHANNELS = 3
_CIFAR_10 = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_CIFAR_100 = {"train": ["train"], "test": ["test"]}
_LARGEST_BATCH = 2**29  # CIFAR-100's training set has 155 MB
_IDX_SPLITS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 8
_LEAST_BYTES = 256


def matches_cifar(folder: Path) -> bool:
    """Return whether a folder holds batches of CIFAR-10, or the three files of CIFAR-100."""
    hundred = all((folder / name).is_file() for name in ("train", "test", "meta"))
    return hundred or any(folder.glob("data_batch_*"))


def read_cifar(folder: Path) -> dict[str, LabelledData]:
    """Read train and test; the labels of CIFAR-100 are its hundred fine classes."""
    hundred = (folder / "meta").is_file()
    key, meta = ("fine_label", "meta") if hundred else ("label", "batches.meta")
    names = _names(_entry(_read(folder / meta), f"{key}_names", folder / meta), folder / meta)
    found = {}
    for split, files in (_CIFAR_100 if hundred else _CIFAR_10).items():
        parts = [_batch(folder / n, f"{key}s") for n in files if (folder / n).is_file()]
        if parts:
            images = np.concatenate([pixels for pixels, _ in parts])
            labels = np.concatenate([numbers for _, numbers in parts])
            found[split] = LabelledData(list(images), labels, _ids(split, len(labels)), names)
    return found


def _batch(path: Path, key: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    content = _read(path)
    pixels, labels = _entry(content, "data", path), _labels(_entry(content, key, path), path)
    shape = (len(labels), _CHANNELS * _SIDE * _SIDE)
    if getattr(pixels, "shape", None) != shape or pixels.dtype != np.uint8:
        got = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else "none"
        raise DataError(f"expected uint8 {list(shape)} as data in {path}, got {got}")
    images = pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _labels(values: Any, path: Path) -> npt.NDArray[np.int64]:
    is_list = isinstance(values, list) and all(isinstance(value, int) for value in values)
    if not is_list and not (isinstance(values, np.ndarray) and values.ndim == 1):
        raise DataError(f"expected a list of whole numbers as labels in {path}, got something else")
    return np.asarray(values).astype(np.int64)


def _names(values: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(name, bytes | str) for name in values):
        raise DataError(f"expected a list of class names in {path}, got something else")
    return tuple(
        name.decode(errors="replace") if isinstance(name, bytes) else name for name in values
    )


def _entry(content: dict[str, Any], key: str, path: Path) -> Any:
    if key not in content:
        raise DataError(f"expected {key} in {path}: it is not a batch of CIFAR")
    return content[key]


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse(read_bytes(path, limit=_LARGEST_BATCH))
    except (OSError, PlainPickleError) as error:
        raise DataError(
            f"expected a batch of CIFAR at {path}, it is damaged ({one_line(error, 120)}): "
            "download it again"
        ) from None


def matches_idx(folder: Path) -> bool:
    """Return whether a folder holds pictures as idx files."""
    return any(folder.glob("*-images-idx3-ubyte*")) or any(folder.glob("*-images.idx3-ubyte*"))


def read_idx(folder: Path) -> dict[str, LabelledData]:
    """Read train and test; grey pictures become RGB with three equal channels."""
    found = {}
    for split, prefix in _IDX_SPLITS.items():
        images = _idx_file(folder, prefix, "images", 3)
        labels = _idx_file(folder, prefix, "labels", 1)
        if images is not None and labels is not None:
            found[split] = _idx_split(split, images, labels)
    if "train" not in found:
        raise DataError(f"expected train-images-idx3-ubyte and train-labels-idx1-ubyte in {folder}")
    return found


def _idx_file(folder: Path, prefix: str, what: str, rank: int) -> Path | None:
    names = (f"{prefix}-{what}{joint}idx{rank}-ubyte{z}" for joint in "-." for z in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _idx_split(split: str, images_file: Path, labels_file: Path) -> LabelledData:
    images, labels = _idx_array(images_file, 3), _idx_array(labels_file, 1)
    if len(images) != len(labels):
        raise DataError(f"expected as many labels as pictures in {images_file}, got {len(labels)}")
    coloured = np.broadcast_to(images[..., None], (*images.shape, 3))
    names = tuple(str(i) for i in range(int(labels.max(initial=0)) + 1))
    return LabelledData(list(coloured), labels.astype(np.int64), _ids(split, len(labels)), names)


def _idx_array(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _idx_shape(file.read(4 + 4 * rank), rank, path)
            values = int(np.prod(shape, dtype=object))
            # A picture becomes an object of its own, however small it is.
            require_unpacked(path, shape[0] * max(values // max(1, shape[0]), _LEAST_BYTES))
            content = file.read(values + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected an idx file at {path}, it is unreadable: {error}") from None
    if len(content) != values:
        raise DataError(
            f"expected {values} bytes after the header of {path}, got "
            f"{len(content) if len(content) < values else 'more'}: download it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _idx_shape(header: bytes, rank: int, path: Path) -> tuple[int, ...]:
    if len(header) < 4 + 4 * rank or header[:4] != bytes([0, 0, _UNSIGNED_BYTE, rank]):
        raise DataError(
            f"expected an idx file of unsigned bytes of rank {rank} at {path}, got another file"
        )
    return struct.unpack(f">{rank}I", header[4:])


def _ids(split: str, count: int) -> tuple[str, ...]:
    return tuple(f"{split}-{i}" for i in range(count))
