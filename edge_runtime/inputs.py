"""Reads the files that `run` is given: pictures (with Pillow) and numpy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DependencyError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_ARRAY = ".npy"
_WIDE_STEP = 257  # 65535 / 255: 16-bit grey levels in one of 8 bits


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

    Pictures are turned as their EXIF says, 16-bit grey is scaled to 8 bits, an alpha channel is
    dropped.

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
    return _read_array(path) if path.suffix.lower() == _ARRAY else _read_picture(path)


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


def _read_picture(path: Path) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise DependencyError("Pillow", "reading pictures", "image") from None
    too_large = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    try:
        with warnings.catch_warnings():
            # Pillow counts the pixels before it decodes them, and only warns at first.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return _as_rgb(ImageOps.exif_transpose(picture), picture.format, path)
    except too_large:
        raise InputError(
            f"expected at most {Image.MAX_IMAGE_PIXELS} pixels, {path} has more and was not "
            "decoded: scale it down"
        ) from None
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises many unrelated classes
        reason = " ".join(str(error).split())
        raise InputError(
            f"expected a picture or .npy array, {path} is neither ({reason}): save it again"
        ) from None


def _as_rgb(picture: Image, form: str | None, path: Path) -> npt.NDArray[np.uint8]:
    # Pillow clips 16-bit grey at 255 when it converts. Old releases open such a PNG as 32-bit.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and form == "PNG"):
        wide = np.asarray(picture).astype(np.uint32)
        grey = ((wide + _WIDE_STEP // 2) // _WIDE_STEP).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.mode[0] in "IF":
        raise InputError(
            f"expected 8 bits a channel or 16-bit grey in {path}, got Pillow's mode "
            f"{picture.mode}: save it with 8 bits"
        )
    if "transparency" in picture.info:  # a palette's: Pillow warns when it goes straight to RGB
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))
