"""Decodes pictures with Pillow, the same way on the device, in training and in the cloud."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DependencyError, InputError, PictureSizeError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What Pillow may decode; some of its other readers start programs."""
MAX_PIXELS = 64 * 1024 * 1024
"""Pixels a picture may have: 192 MiB of RGB."""
_WIDE_STEP = 257  # 65535 / 255: 16-bit grey levels in one of 8 bits


def decode_picture(
    file: Path | bytes, name: str, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Return a picture as RGB, uint8 [height, width, 3].

    Pictures are turned as their EXIF says, 16-bit grey is scaled to 8 bits, an alpha channel is
    dropped.

    Args:
        file: Where it is, or its encoded bytes.
        name: What error messages call it.
        max_pixels: More are refused by the header, before anything is decoded.

    Raises:
        PictureSizeError: It has too many pixels.
        InputError: It is unreadable, or has another kind of pixels.
        DependencyError: Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise DependencyError("Pillow", "reading pictures", "image") from None
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            # Pillow counts the pixels as well, at another limit, and only warns at first.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as picture:
                _check_size(picture, name, max_pixels)
                upright = ImageOps.exif_transpose(picture) if _has_exif(picture) else picture
                return _as_rgb(upright, picture.format, name)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, "more", max_pixels) from None
    except Exception as error:  # noqa: BLE001 - Pillow raises many unrelated classes
        # Pillow's own text for it shows where in memory the bytes are.
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is none of these" if is_unknown else " ".join(str(error).split())
        raise InputError(
            f"expected a picture ({', '.join(FORMATS)}), {name} cannot be decoded ({reason}): save "
            "it again"
        ) from None


def _too_large(name: str, came: str, limit: int) -> PictureSizeError:
    return PictureSizeError(
        f"expected at most {limit} pixels, {name} has {came} and was not decoded: scale it down"
    )


def _check_size(picture: Image, name: str, limit: int) -> None:
    if picture.width * picture.height > limit:
        raise _too_large(name, f"{picture.width} x {picture.height}", limit)


def _has_exif(picture: Image) -> bool:
    # Asking every JPEG for its EXIF takes longer than decoding a small one.
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
    if "transparency" in picture.info:  # a palette's: Pillow warns when it goes straight to RGB
        picture = picture.convert("RGBA")
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
