"""Reads the files that `run` is given: pictures (with Pillow) and numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import InputError
from edge_runtime.pictures import decode_picture

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_ARRAY = ".npy"


def find_inputs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named, and the pictures and arrays under the folders named, sorted.

    A path that leads nowhere, and a folder without inputs, are yielded as they are: reading them
    says what is wrong, and costs the other inputs nothing.
    """
    for path in paths:
        found = sorted(p for p in path.rglob("*") if _is_input(p)) if _is_folder(path) else []
        yield from found or [path]


def _is_input(path: Path) -> bool:
    return path.suffix.lower() in PICTURES | {_ARRAY} and not _is_folder(path)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission to look, a name that is too long: reading it will say so
        return False


def read_input(path: Path) -> npt.NDArray[Any]:
    """Read one input: a picture as uint8 [height, width, 3], or an array as it was saved.

    Raises:
        InputError: The file is missing or unreadable, a picture has too many pixels to decode or
            another kind of pixels, or an array holds Python objects (never unpickled).
        DependencyError: Pillow is missing.
    """
    try:
        path.stat()
    except OSError as error:
        raise InputError(
            f"expected a file or folder, nothing is at {path} ({error.strerror}): check the path"
        ) from None
    if path.is_dir():
        raise InputError(f"expected pictures or .npy files under {path}, found none: name others")
    if path.suffix.lower() == _ARRAY:
        return _read_array(path)
    return decode_picture(path, str(path))


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        found: Any = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"expected a plain numeric array in {path} ({reason}): save it with numpy.save"
        ) from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise InputError(f"expected one array in {path}, got an archive: save it with numpy.save")
    return found
