"""Reads one input in any form that people have: files, bytes, Pillow's pictures, tensors, lists."""

from __future__ import annotations

import os
import sys
from array import array as numbers_of_c
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.errors import InputError
from edge_runtime.files import one_line
from edge_runtime.inputs.pictures import PICTURES, decode_picture, picture_pixels, read_input
from edge_runtime.reading import read_bytes

Array = npt.NDArray[Any]
_FILE_BYTES: Final = 2**29  # of one picture's file
_SHOWN: Final = 60  # characters of a text in a message
_COLOURS: Final = 3
_CHANNELS: Final = (1, 3, 4)
_REASON: Final = 120
_GREY: Final = (19595, 38470, 7471, 16)
"""Pillow's weights of red, green and blue, and the shift that follows."""


@dataclass(frozen=True)
class Wanted:
    """The array that a graph takes for one input.

    Attributes:
        dtype: Its type.
        sizes: Its axes without that of the batch; free ones are named.
        name: Name of the graph's input.
        is_bgr: Whether arrays of pictures have blue as their first channel, as OpenCV's do.
    """

    dtype: np.dtype[Any]
    sizes: tuple[int | str, ...]
    name: str
    is_bgr: bool = False

    @property
    def is_picture(self) -> bool:
        """Whether the graph takes pictures as they are: uint8 [height, width, channels]."""
        is_named = self.name == contract.IMAGE and self.dtype == np.uint8
        return is_named and len(self.sizes) == 3 and self.sizes[-1] in {1, _COLOURS}  # noqa: PLR2004 - axes

    @property
    def words(self) -> str:
        """What to pass, for messages."""
        array = f"{self.dtype} {list(self.sizes)}"
        return f"a picture (a file, its bytes, or {array})" if self.is_picture else array


def read_value(value: Any, wanted: Wanted) -> tuple[Array, bytes | None]:
    """Return one input as an array and, where it was an encoded picture, its bytes.

    Raises:
        InputError: It is not an input of the graph, or cannot be read.
        ShortMemoryError: Too little memory is left to read it.
        DependencyError: Pillow is missing.
    """
    if isinstance(value, np.ndarray):
        return arrange(value, wanted, axes=len(wanted.sizes)), None
    if isinstance(value, str):
        value = _existing(value, wanted)
    if isinstance(value, os.PathLike):
        return _read_path(Path(value), wanted)
    if callable(getattr(value, "read", None)):
        value = _read_open_file(value)
    if is_encoded(value):
        data = bytes(value)
        return _decoded(data, f"an input of {len(data)} bytes", wanted)
    if is_pillow(value):
        return _channels(picture_pixels(value, "Pillow's picture"), wanted), None
    return arrange(_numbers(value, wanted), wanted, axes=len(wanted.sizes)), None


def is_encoded(value: object) -> bool:
    """Return whether a value holds the bytes of a file, not an array of numbers."""
    if isinstance(value, memoryview):
        return value.ndim == 1 and value.format in {"B", "b", "c"}
    return isinstance(value, bytes | bytearray)


def is_pillow(value: object) -> bool:
    """Return whether a value is one of Pillow's pictures, without importing Pillow."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def is_foreign(value: object) -> bool:
    """Return whether a value is an array of another library, e.g. of torch or pandas."""
    known = isinstance(value, np.ndarray | np.generic | str | bytes) or is_pillow(value)
    return not known and (hasattr(value, "__array__") or hasattr(value, "__dlpack__"))


def kind_of(value: object) -> str:
    """Return what a value is, for a message."""
    if value is None:
        return "None"
    if isinstance(value, bool | int | float | complex | np.generic):
        return f"a single {type(value).__name__}"
    return f"a {type(value).__name__}"


def from_foreign(value: Any, words: str) -> Array:
    """Return the array of another library's tensor or table, wherever its memory lies."""
    try:
        for step in ("detach", "cpu"):  # torch's; arrays of other libraries lack them
            method: Callable[[], Any] | None = getattr(value, step, None)
            value = method() if callable(method) else value
        array = np.asarray(value) if hasattr(value, "__array__") else np.from_dlpack(value)
    except Exception as error:  # noqa: BLE001 - each library raises classes of its own
        raise InputError(
            f"expected {words}, {kind_of(value)} cannot be read as an array "
            f"({one_line(error, _REASON)}): convert it to a numpy array first"
        ) from None
    return _require_numbers(array, value, words)


def arrange(array: Array, wanted: Wanted, *, axes: int) -> Array:
    """Return an array with the graph's type and channels where nothing is lost by it.

    Wider floats are rounded, whole numbers of a vector become floats; grey pictures get their
    channels, and blue, green and red are turned around. Anything else stays, to be refused.

    Args:
        array: One input, or a batch.
        wanted: The array that the graph takes.
        axes: The axes that it should have.
    """
    if array.dtype != wanted.dtype and wanted.dtype.kind == "f":
        is_vector = len(wanted.sizes) == 1 and array.dtype.kind in "iu"
        if array.dtype.kind == "f" or is_vector:
            with np.errstate(over="ignore"):  # an infinity is deferred
                return array.astype(wanted.dtype)
    if not wanted.is_picture or array.dtype != np.uint8:
        return array
    is_grey = array.ndim == axes - 1 and (axes == len(wanted.sizes) or not _has_channels(array))
    if is_grey:
        array = array[..., None]
    if array.ndim != axes:
        return array
    if array.shape[-1] == 1 and wanted.sizes[-1] == _COLOURS:
        return np.repeat(array, _COLOURS, axis=-1)
    if wanted.is_bgr and array.shape[-1] == _COLOURS:
        return np.ascontiguousarray(array[..., ::-1])
    return array


def advice(rows: object, wanted: Wanted) -> str:
    """Return what to do about a batch that the graph does not take."""
    if not isinstance(rows, np.ndarray) or not wanted.is_picture or rows.ndim <= len(wanted.sizes):
        return "convert or resize the input"
    is_tensor = rows.shape[1] in _CHANNELS and rows.shape[-1] not in _CHANNELS
    if is_tensor and rows.dtype.kind == "f":
        return (
            "pass the picture itself, as it was before a transform made it a tensor: the graph "
            "scales its input itself"
        )
    if is_tensor:
        return "its channels come first: permute(1, 2, 0) puts them last"
    if rows.dtype.kind == "f":
        return "multiply levels from 0 to 1 by 255, round them and convert to uint8"
    return "convert or resize the input"


def _has_channels(array: Array) -> bool:
    return array.shape[-1] in _CHANNELS


def _existing(text: str, wanted: Wanted) -> Path:
    try:
        if text and Path(text).is_file():
            return Path(text)
    except (OSError, ValueError):  # a name that is too long, or holds a zero
        pass
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    raise InputError(
        f"expected {wanted.words}, got the text {one_line(ascii(shown))}, and no file has that "
        "name: check the path"
    )


def _read_path(path: Path, wanted: Wanted) -> tuple[Array, bytes | None]:
    if path.suffix.lower() not in PICTURES:
        value: Any = read_input(path)
        if isinstance(value, str):
            raise InputError(
                f"expected {wanted.words}, {path} holds a text: name a picture or .npy file"
            )
        return arrange(value, wanted, axes=len(wanted.sizes)), None
    try:
        data = read_bytes(path, limit=_FILE_BYTES)
    except OSError as error:
        raise InputError(
            f"expected a readable picture at {path} ({error.strerror or error}): check the path"
        ) from None
    return _decoded(data, str(path), wanted)


def _read_open_file(file: Any) -> bytes:
    try:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)  # as Pillow does: what was just written stands at its end
        data = file.read(_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # closed, or open for writing alone
        raise InputError(
            f"expected a file that is open for reading ({one_line(error, _REASON)}): open it again"
        ) from None
    if not isinstance(data, bytes | bytearray):
        raise InputError(
            f"expected a file opened in binary mode, it gave {kind_of(data)}: open it with 'rb'"
        )
    if len(data) > _FILE_BYTES:
        raise InputError(f"expected a file of at most {_FILE_BYTES} bytes, it has more: shrink it")
    return bytes(data)


def _decoded(data: bytes, name: str, wanted: Wanted) -> tuple[Array, bytes | None]:
    pixels = decode_picture(data, name)
    channels = _channels(pixels, wanted)
    return channels, data if channels is pixels else None


def _channels(pixels: Array, wanted: Wanted) -> Array:
    """Return a decoded picture in grey where the graph takes one channel."""
    if not wanted.is_picture or wanted.sizes[-1] == _COLOURS:
        return pixels
    *weights, shift = _GREY
    total = pixels.astype(np.uint32) @ np.array(weights, np.uint32) + (1 << shift - 1)
    return (total >> shift).astype(np.uint8)[..., None]


def _numbers(value: Any, wanted: Wanted) -> Array:
    """Return the array of a list or of another library; a list's whole numbers fit any type."""
    if isinstance(value, list | tuple | numbers_of_c):
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError) as error:  # e.g. rows of different lengths
            raise InputError(
                f"expected an input as an array, got {one_line(error)}: convert it first"
            ) from None
        return _as_type(_require_numbers(array, value, wanted.words), wanted)
    if isinstance(value, memoryview):
        return np.asarray(value)
    if not is_foreign(value):
        raise InputError(f"expected {wanted.words}, got {kind_of(value)}: pass one of these")
    return from_foreign(value, wanted.words)


def _as_type(array: Array, wanted: Wanted) -> Array:
    if array.dtype.kind not in "iu" or wanted.dtype.kind not in "iu" or not array.size:
        return array
    limits, low, high = np.iinfo(wanted.dtype), int(array.min()), int(array.max())
    if low < limits.min or high > limits.max:
        raise InputError(
            f"expected numbers from {limits.min} to {limits.max}, got {low} to {high}: scale them"
        )
    return array.astype(wanted.dtype)


def _require_numbers(array: Array, value: object, words: str) -> Array:
    if array.dtype.kind not in "biufc" or not array.ndim:
        held = "a single number" if not array.ndim else f"{kind_of(value)} of {array.dtype}"
        several = array.ndim and array.dtype.kind in "OUS"
        do = "use cascade.batch for several inputs" if several else "pass one of these"
        raise InputError(f"expected {words}, got {held}: {do}")
    return array
