"""MNIST and Fashion-MNIST as published: idx files, gzipped or not (LeCun et al., 1998)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.data.labelled import LabelledData
from train.errors import DataError

_SPLITS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 8


def matches(folder: Path) -> bool:
    """Return whether there are pictures in idx form."""
    return any(folder.glob("*-images-idx3-ubyte*")) or any(folder.glob("*-images.idx3-ubyte*"))


def read(folder: Path) -> dict[str, LabelledData]:
    """Read train and test; grey pictures become RGB with three equal channels."""
    found = {}
    for split, prefix in _SPLITS.items():
        images = _find(folder, prefix, "images", 3)
        labels = _find(folder, prefix, "labels", 1)
        if images is not None and labels is not None:
            found[split] = _split(_array(images, 3), _array(labels, 1), split, images)
    if "train" not in found:
        raise DataError(f"expected train-images-idx3-ubyte and train-labels-idx1-ubyte in {folder}")
    return found


def _find(folder: Path, prefix: str, what: str, rank: int) -> Path | None:
    names = (f"{prefix}-{what}{joint}idx{rank}-ubyte{z}" for joint in "-." for z in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _array(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected an idx file at {path}, it is unreadable: {error}") from None
    header = 4 + 4 * rank
    if len(content) < header or content[:4] != bytes([0, 0, _UNSIGNED_BYTE, rank]):
        raise DataError(f"expected an idx file of unsigned bytes of rank {rank}, {path} is none")
    shape = struct.unpack(f">{rank}I", content[4:header])
    values = int(np.prod(shape, dtype=object))
    if len(content) - header != values:
        raise DataError(
            f"expected {values} bytes after the header of {path}, got {len(content) - header}: "
            "fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _split(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], split: str, path: Path
) -> LabelledData:
    if len(images) != len(labels):
        raise DataError(f"expected as many labels as pictures beside {path}, got {len(labels)}")
    coloured = np.broadcast_to(images[..., None], (*images.shape, 3))
    names = tuple(str(i) for i in range(int(labels.max(initial=0)) + 1))
    ids = tuple(f"{split}-{i}" for i in range(len(labels)))
    return LabelledData(list(coloured), labels.astype(np.int64), ids, names)
