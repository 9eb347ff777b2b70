"""Reads the files that `run` is given: pictures (with Pillow), numpy arrays, and texts."""

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
_TEXT = ".txt"


def find_inputs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named, and the inputs under the folders named, sorted.

    A path that leads nowhere, and a folder without inputs, are yielded as they are: reading them
    says what is wrong, and costs the other inputs nothing.
    """
    for path in paths:
        found = sorted(p for p in path.rglob("*") if _is_input(p)) if _is_folder(path) else []
        yield from found or [path]


def _is_input(path: Path) -> bool:
    return path.suffix.lower() in PICTURES | {_ARRAY, _TEXT} and not _is_folder(path)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission to look, a name that is too long: reading it will say so
        return False


def read_input(path: Path) -> npt.NDArray[Any] | str:
    """Read one input: a text from a `.txt` file, or what `read_array` reads.

    Raises:
        InputError: See there; or the text is not UTF-8.
        DependencyError: Pillow is missing.
    """
    return _read_text(path) if path.suffix.lower() == _TEXT else read_array(path)


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a picture as uint8 [height, width, 3], or an array as it was saved.

    Raises:
        InputError: The file is missing or unreadable, a picture has too many pixels to decode or
            another kind of pixels, or an array holds Python objects (never unpickled).
        DependencyError: Pillow is missing.
    """
    _require_file(path)
    return _read_npy(path) if path.suffix.lower() == _ARRAY else decode_picture(path, str(path))


def _require_file(path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        raise InputError(
            f"expected a file or folder, nothing is at {path} ({error.strerror}): check the path"
        ) from None
    if path.is_dir():
        raise InputError(
            f"expected pictures, .npy or .txt files under {path}, found none: name others"
        )


def _read_text(path: Path) -> str:
    _require_file(path)
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"expected a text in UTF-8 in {path} ({error}): save it again") from None


def _read_npy(path: Path) -> npt.NDArray[Any]:
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
