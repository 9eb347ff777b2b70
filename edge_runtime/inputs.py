"""Reads the files that `run` is given: pictures (with Pillow) and numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DependencyError, InputError

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_ARRAY = ".npy"


def find_inputs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named, and the pictures and arrays under the folders named, sorted.

    Raises:
        InputError: A path does not exist, or a folder holds no input.
    """
    for path in paths:
        if path.is_dir():
            found = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in PICTURES | {_ARRAY}]
            if not found:
                raise InputError(f"expected pictures or .npy files under {path}, found none")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise InputError(f"expected a file or folder, nothing is at {path}")


def read_input(path: Path) -> npt.NDArray[Any]:
    """Read one input: a picture as uint8 [height, width, 3], or an array as it was saved.

    Raises:
        InputError: The file is unreadable, or holds Python objects (never unpickled).
        DependencyError: Pillow is missing.
    """
    if path.suffix.lower() == _ARRAY:
        try:
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise InputError(f"expected a plain numeric array in {path}: {error}") from None
        return array
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DependencyError("Pillow", "reading pictures", "image") from None
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise InputError(f"expected a picture or .npy array, {path} is neither: {error}") from None
