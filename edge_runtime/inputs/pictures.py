"""Reads the files of inputs: pictures, numpy arrays and texts.

Pictures are decoded with Pillow, the same way on the device, in training and in the cloud.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import (
    DependencyError,
    InputError,
    PictureSizeError,
    ShortMemoryError,
    lacks_memory,
)
from edge_runtime.files import files_under, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that Pillow may decode; some of its other readers start programs."""
MAX_PIXELS = 64 * 1024 * 1024
"""Most pixels of a picture: 192 MiB of RGB. A JPEG with more is decoded at half its size."""
_WIDE_STEP = 257  # 65535 / 255: 16-bit grey levels per 8-bit level
_STRIP = 1 << 18  # pixels that become RGB at a time; numpy's copy keeps all other threads waiting
_ORIENTATION = 0x0112  # the tag's number, in EXIF and in TIFF
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
# Pillow's numbers of the turns that put a picture upright, by orientation.
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_EXCHANGED = frozenset({5, 6, 7, 8})  # the first row becomes a column
_FROM_END = frozenset({3, 4, 6, 7})  # the first row becomes the last one
_SCAN = 0xDA  # marker of a JPEG's scan, whose head begins with its number of channels

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})
_ARRAY = ".npy"
_TEXT = ".txt"


def decode_picture(
    file: Path | bytes, name: str, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Return a picture as RGB, uint8 [height, width, 3].

    Pictures are rotated as their EXIF, or else their XMP, says; damaged EXIF is ignored. 16-bit
    grey is scaled to 8 bits, an alpha channel is dropped. A JPEG of more than `MAX_PIXELS` is
    scaled to half its width and height while it is decoded, unless its scans are separate, as in
    progressive files: those are held whole in memory first.

    Args:
        file: The path, or the encoded bytes.
        name: The picture's name in error messages.
        max_pixels: Limit of the decoded size, checked against the header before anything is
            decoded.

    Raises:
        PictureSizeError: The picture has too many pixels.
        InputError: The file is unreadable, or has an unsupported kind of pixels.
        ShortMemoryError: Too little memory is left to decode it.
        DependencyError: Pillow is missing.
    """
    source = io.BytesIO(file) if isinstance(file, bytes) else file

    def open_and_read(image: Any) -> npt.NDArray[np.uint8]:
        with image.open(source, formats=FORMATS) as picture:
            _limit_size(picture, name, max_pixels)
            return _as_rgb(picture, name)

    return _read_with_pillow(open_and_read, name, max_pixels)


def picture_pixels(picture: Any, name: str) -> npt.NDArray[np.uint8]:
    """Return one of Pillow's pictures as RGB, converted as `decode_picture` converts its file."""

    def read(_: Any) -> npt.NDArray[np.uint8]:
        _limit_size(picture, name, MAX_PIXELS)
        return _as_rgb(picture, name)

    return _read_with_pillow(read, name, MAX_PIXELS)


def _read_with_pillow(
    read: Callable[[Any], npt.NDArray[np.uint8]], name: str, max_pixels: int
) -> npt.NDArray[np.uint8]:
    """Call a function with `PIL.Image`, and raise what goes wrong as our own errors."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise DependencyError("Pillow", "reading pictures", "image") from None
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, whose size is checked here, and of damaged EXIF.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return read(Image)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise _size_error(name, "more", max_pixels) from None
    except Exception as error:  # noqa: BLE001 - Pillow raises many unrelated classes
        # Pillow's own text for an unknown format shows a memory address.
        if lacks_memory(error):
            raise _short(name) from None
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "none of these formats" if is_unknown else one_line(error)
        raise InputError(
            f"expected a picture ({', '.join(FORMATS)}), {name} cannot be decoded ({reason}): save "
            "it again"
        ) from None


def _short(name: object) -> ShortMemoryError:
    return ShortMemoryError(
        f"expected enough memory to read {name}, the system gave none: use a smaller one, or end "
        "other programs"
    )


def _size_error(name: str, size: str, limit: int) -> PictureSizeError:
    return PictureSizeError(
        f"expected at most {limit} pixels, {name} has {size} and was not decoded: scale it down"
    )


def _limit_size(picture: Image, name: str, limit: int) -> None:
    width, height = picture.size
    # The size alone decides, not `limit`: device and server must see the same pixels.
    if width * height > MAX_PIXELS and _is_streamed(picture):
        picture.draft(None, (width // 2, height // 2))
    if picture.width * picture.height > limit:
        raise _size_error(name, f"{width} x {height}", limit)


def _is_streamed(picture: Any) -> bool:
    """Return whether a picture is a JPEG whose only scan can be decoded line by line."""
    if picture.format not in {"JPEG", "MPO"} or "progressive" in picture.info:
        return False
    file = getattr(picture, "fp", None)
    if file is None:  # it is decoded already
        return False
    file.seek(2)  # behind the start marker, to the first segment: a marker and a length
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != _SCAN:  # noqa: PLR2004
        file.seek(int.from_bytes(head[2:], "big") - 2, io.SEEK_CUR)
    return bool(head[1:2] == bytes((_SCAN,)) and file.read(1) == bytes((picture.layers,)))


def _orientation(picture: Any) -> int:
    """Return the orientation of a loaded picture that is still to be applied, 1 to 8."""
    found = None
    if picture.format != "JPEG" or "exif" in picture.info:  # it takes longer than a small JPEG
        with contextlib.suppress(Exception):  # damaged: Pillow raises many unrelated classes
            found = picture.getexif().get(_ORIENTATION)
    if found is None and (match := _XMP_ORIENTATION.search(picture.info.get("xmp", b""))):
        found = int(match[1])
    return found if found in _TURNS else 1


def _as_rgb(picture: Any, name: str) -> npt.NDArray[np.uint8]:
    # Pillow turns a TIFF by its own tag when it loads it.
    is_turned = picture.format == "TIFF" and _ORIENTATION in picture.getexif()
    picture.load()
    orientation = 1 if is_turned else _orientation(picture)
    width, height = picture.size
    is_exchanged = orientation in _EXCHANGED
    upright = np.empty((width, height, 3) if is_exchanged else (height, width, 3), np.uint8)
    lines = upright.swapaxes(0, 1) if is_exchanged else upright
    # In strips: Pillow's conversions and numpy's copy would each hold the whole picture again.
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = picture if rows >= height else picture.crop((0, top, width, bottom))
        if orientation in _TURNS:
            strip = strip.transpose(_TURNS[orientation])
        pixels = _strip_as_rgb(strip, picture.format, name)
        first = height - bottom if orientation in _FROM_END else top
        place = lines[first : first + bottom - top]
        place[:] = pixels.swapaxes(0, 1) if is_exchanged else pixels
    return upright


def _strip_as_rgb(picture: Image, form: str | None, name: str) -> npt.NDArray[np.uint8]:
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
        ShortMemoryError: Too little memory is left to read it.
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
        try:
            array: Any = np.load(path, allow_pickle=False)
        except MemoryError:
            with contextlib.suppress(MemoryError, OSError):
                np.load(path, mmap_mode="r", allow_pickle=False)  # is it as large as it says?
            raise _short(path) from None
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise InputError(
            f"expected a plain numeric array in {path} ({one_line(error)}): save it with numpy.save"
        ) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"expected one array in {path}, got an archive: save it with numpy.save")
    return array
