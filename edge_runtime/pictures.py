"""Reads the files of inputs: pictures, numpy arrays and texts.

Pictures are decoded with Pillow, the same way on the device, in training and in the cloud.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DependencyError, InputError, PictureSizeError
from edge_runtime.files import files_under, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that Pillow may decode; some of its other readers start programs."""
MAX_PIXELS = 64 * 1024 * 1024
"""Most pixels of a picture: 192 MiB of RGB."""
_WIDE_STEP = 257  # 65535 / 255: 16-bit grey levels per 8-bit level

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_ARRAY = ".npy"
_TEXT = ".txt"


def decode_picture(
    file: Path | bytes, name: str, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Return a picture as RGB, uint8 [height, width, 3].

    Pictures are rotated as their EXIF says, 16-bit grey is scaled to 8 bits, an alpha channel is
    dropped.

    Args:
        file: The path, or the encoded bytes.
        name: The picture's name in error messages.
        max_pixels: Size limit, checked against the header before anything is decoded.

    Raises:
        PictureSizeError: The picture has too many pixels.
        InputError: The file is unreadable, or has an unsupported kind of pixels.
        DependencyError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise DependencyError("Pillow", "reading pictures", "image") from None
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            # Pillow has a pixel limit of its own, and only warns at first.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as picture:
                _check_size(picture, name, max_pixels)
                upright = ImageOps.exif_transpose(picture) if _has_exif(picture) else picture
                return _as_rgb(upright, picture.format, name)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise _size_error(name, "more", max_pixels) from None
    except Exception as error:  # noqa: BLE001 - Pillow raises many unrelated classes
        # Pillow's own text for an unknown format shows a memory address.
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "none of these formats" if is_unknown else one_line(error)
        raise InputError(
            f"expected a picture ({', '.join(FORMATS)}), {name} cannot be decoded ({reason}): save "
            "it again"
        ) from None


def _size_error(name: str, size: str, limit: int) -> PictureSizeError:
    return PictureSizeError(
        f"expected at most {limit} pixels, {name} has {size} and was not decoded: scale it down"
    )


def _check_size(picture: Image, name: str, limit: int) -> None:
    if picture.width * picture.height > limit:
        raise _size_error(name, f"{picture.width} x {picture.height}", limit)


def _has_exif(picture: Image) -> bool:
    # Reading the EXIF of every JPEG takes longer than decoding a small one.
    return picture.format != "JPEG" or "exif" in picture.info


def _as_rgb(picture: Image, form: str | None, name: str) -> npt.NDArray[np.uint8]:
    # Pillow clips 16-bit grey at 255 when it converts. Old releases open such a PNG as 32-bit.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and form == "PNG"):
        wide = np.asarray(picture).astype(np.uint32)
        grey = ((wide + _WIDE_STEP // 2) // _WIDE_STEP).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.mode[0] in "IF":
        raise InputError(
            f"expected 8 bits a channel or 16-bit grey in {name}, got Pillow's mode "
            f"{picture.mode}: save it with 8 bits"
        )
    if "transparency" in picture.info:  # of a palette: Pillow warns when it goes straight to RGB
        picture = picture.convert("RGBA")
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def find_inputs(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among the paths, and the inputs under the folders, sorted.

    Hidden files are left out, links to folders are followed. A path that does not exist, a folder
    without inputs, and one that cannot be read are yielded unchanged: reading them gives the error,
    and does not affect the other inputs.
    """
    for path in paths:
        files, closed = files_under(path) if _is_folder(path) else ([], [])
        inputs = [file for file in files if file.suffix.lower() in PICTURES | {_ARRAY, _TEXT}]
        yield from sorted(inputs + closed) or [path]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission, a name that is too long: reading it gives the error
        return False


def read_input(path: Path) -> npt.NDArray[Any] | str:
    """Read one input: a text from a `.txt` file, or anything that `read_array` reads."""
    return _read_text(path) if path.suffix.lower() == _TEXT else read_array(path)


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a picture as uint8 [height, width, 3], or an array as it was saved.

    Raises:
        InputError: The file is missing or unreadable, a picture has too many pixels or an
            unsupported kind of them, or an array holds Python objects (never unpickled).
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
    if not path.is_file():  # a pipe would be waited for
        raise InputError(f"expected a file or folder, {path} is something else: name another")


def _read_text(path: Path) -> str:
    _require_file(path)
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"expected a text in UTF-8 in {path} ({error}): save it again") from None


def _read_npy(path: Path) -> npt.NDArray[Any]:
    try:
        array: Any = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError) as error:
        raise InputError(
            f"expected a plain numeric array in {path} ({one_line(error)}): save it with numpy.save"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"expected one array in {path}, got an archive: save it with numpy.save")
    return array
