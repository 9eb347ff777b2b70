"""Reads what an image processor of transformers does to a picture, and refuses what is not known.

A `preprocessor_config.json` may hold settings that its class ignores, and classes read the same
setting in different ways. So the classes are listed, and of their settings those count that the
installed version of the class reads.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime.files import one_line
from export.errors import PreprocessingError
from export.sources.probes import LARGEST_SIDE

_MODES = {0: "nearest", 2: "linear", 3: "cubic"}  # Pillow's resampling numbers
_CLASSES: Final = (
    *("Beit", "Bit", "Blip", "CLIP", "ConvNext", "DeiT", "EfficientFormer", "EfficientNet"),
    *("Levit", "MobileNetV1", "MobileNetV2", "MobileViT", "Perceiver", "PoolFormer", "Pvt"),
    *("Segformer", "Siglip", "ViT"),
)
# Settings that are handled here or leave the pixels of a colour picture as they are.
_READ: Final = frozenset(
    (
        *("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct"),
        *("do_flip_channel_order", "do_rescale", "rescale_factor", "rescale_offset"),
        *("do_normalize", "image_mean", "image_std", "include_top", "do_convert_rgb"),
        *("do_reduce_labels", "pad_size", "data_format", "input_data_format"),
        *("return_tensors", "disable_grouping", "device"),
    )
)
_WARPED_FROM = 384  # ConvNext warps pictures to a square from this size on
_MARGIN = 256 / 224  # LeViT resizes to more than it crops to
_HINT = "use --preprocessing none and prepare pixel_values yourself"

Size = tuple[int, int]


@dataclass(frozen=True)
class Steps:
    """What a processor does to a picture, in this order.

    Attributes:
        crop_share: (height, width) of the part from the middle of the picture, in shares of its
            shorter side; None to keep all of it.
        resize: (height, width), or the shorter side of the picture in its own aspect, or None.
        mode: How to resize: nearest, linear or cubic.
        crop: (height, width) of the part from the middle, with a black margin where the picture
            is smaller; or None.
        is_flipped: True if red and blue change places.
        scale: Factor of each channel of 0 to 255, [3].
        shift: Then added to each channel, [3].
    """

    crop_share: tuple[float, float] | None
    resize: Size | int | None
    mode: str
    crop: Size | None
    is_flipped: bool
    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]

    @property
    def is_padding(self) -> bool:
        """True if a crop may reach beyond the picture."""
        if self.crop_share is not None:
            return max(self.crop_share) > 1
        if self.crop is None or self.resize is None:
            return self.crop is not None
        resized = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        return self.crop[0] > resized[0] or self.crop[1] > resized[1]


def steps_of(processor: Any) -> Steps:
    """Return what a processor does.

    Raises:
        PreprocessingError: It does something that is not handled, or its settings are damaged.
    """
    name = type(processor).__name__.removesuffix("Pil").removesuffix("Fast")
    kind = name.removesuffix("ImageProcessor")
    if kind not in _CLASSES:
        raise PreprocessingError(
            f"expected an image processor of {', '.join(_CLASSES)}, got {name}: {_HINT}"
        )
    settings = _settings_read(processor)
    for option in settings:
        if option not in _READ and settings[option]:
            raise PreprocessingError(
                f"expected a processor without {option}, got one that sets it: {_HINT}"
            )
    try:
        return _read(kind, settings)
    except PreprocessingError:
        raise
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise PreprocessingError(
            f"expected sizes and numbers in the settings of {name}, got {one_line(error, 100)}: "
            "correct its preprocessor_config.json"
        ) from None


def require_working(processor: Any, size: Size) -> None:
    """Refuse a processor that cannot prepare even a picture of its own size.

    Raises:
        PreprocessingError: It raised.
    """
    picture = np.zeros((*size, 3), np.uint8)
    try:
        processor([picture], return_tensors="np", input_data_format="channels_last")
    except Exception as error:  # noqa: BLE001 - transformers raises many unrelated classes
        raise PreprocessingError(
            f"expected a processor that prepares a picture of {size[1]} x {size[0]}, "
            f"{type(processor).__name__} raised {one_line(error, 160)}: correct its "
            "preprocessor_config.json"
        ) from None


def _settings_read(processor: Any) -> dict[str, Any]:
    """Return the settings that the processor's own class reads."""
    is_version_5 = hasattr(processor, "backend")  # its `preprocess` reads nothing by itself
    reader = type(processor)._preprocess if is_version_5 else type(processor).preprocess  # noqa: SLF001 - the one place that names them
    names = inspect.signature(reader).parameters
    return {name: value for name, value in processor.to_dict().items() if name in names}


def _read(kind: str, settings: dict[str, Any]) -> Steps:
    resize = _resize(kind, settings) if settings.get("do_resize") else None
    crop = _sides(settings["crop_size"]) if settings.get("do_center_crop") else None
    share = None
    if kind == "Perceiver" and crop is not None:
        size = _sides(settings["size"])
        if isinstance(size, int) or isinstance(crop, int):
            raise ValueError("no height and width")
        share, crop = (size[0] / crop[0], size[1] / crop[1]), None
    if kind == "ConvNext" and resize is not None:
        if crop is not None:
            raise PreprocessingError(
                f"expected a ConvNextImageProcessor without do_center_crop, it crops by itself: "
                f"{_HINT}"
            )
        resize, crop = _convnext(settings)
    if isinstance(crop, int):
        raise ValueError("a crop_size without height and width")  # noqa: TRY004 - as above
    mode = _mode(settings) if resize is not None else ""
    is_one_size = crop is not None or not (isinstance(resize, int) or (share and resize is None))
    if not is_one_size:
        raise PreprocessingError(
            "expected a processor whose pixels all have one size, got one whose size follows the "
            "picture's: set do_center_crop, or a size of height and width"
        )
    scale, shift = _scale_and_shift(settings)
    is_flipped = bool(settings.get("do_flip_channel_order"))
    return Steps(share, resize, mode, crop, is_flipped, scale, shift)


def _resize(kind: str, settings: dict[str, Any]) -> Size | int:
    size = _sides(settings["size"])
    if kind == "Levit" and isinstance(size, int):
        return int(_MARGIN * size)
    share = settings.get("crop_pct")
    if kind != "PoolFormer" or share is None:
        return size
    if isinstance(size, int):
        return _side(int(size / share))
    height, width = (_side(int(side / share)) for side in size)
    return height if size[0] == size[1] else (height, width)


def _convnext(settings: dict[str, Any]) -> tuple[Size | int, Size | None]:
    """Return (the resized picture, the crop of it): a warped square from `_WARPED_FROM` on."""
    edge = _sides(settings["size"])
    if not isinstance(edge, int):
        raise ValueError("a size without shortest_edge")  # noqa: TRY004 - `steps_of` explains it
    if edge >= _WARPED_FROM:
        return (edge, edge), None
    return _side(int(edge / settings["crop_pct"])), (edge, edge)


def _mode(settings: dict[str, Any]) -> str:
    resample = settings.get("resample")
    if not isinstance(resample, int) or resample not in _MODES:
        raise PreprocessingError(
            "expected resample nearest (0), bilinear (2) or bicubic (3), got "
            f"{one_line(resample, 60)}: use --preprocessing none"
        )
    return _MODES[resample]


def _sides(size: Any) -> Size | int:
    """Return (height, width) or the shorter side."""
    given = dict(size)
    if given.keys() == {"height", "width"}:
        return _side(given["height"]), _side(given["width"])
    if given.keys() == {"shortest_edge"}:
        return _side(given["shortest_edge"])
    raise PreprocessingError(
        "expected a size of height and width, or of shortest_edge, got "
        f"{one_line(', '.join(sorted(map(str, given))) or 'an empty one', 100)}: {_HINT}"
    )


def _side(value: Any) -> int:
    if not isinstance(value, int) or not 1 <= value <= LARGEST_SIDE:
        raise ValueError(f"a side of {value!r} (1 to {LARGEST_SIDE} pixels)")
    return value


def _scale_and_shift(
    settings: dict[str, Any],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the factor and the summand of each channel, [3] each."""
    scale, shift = np.ones(3), np.zeros(3)
    if settings.get("do_rescale"):
        scale = scale * float(settings["rescale_factor"])
        shift = shift - bool(settings.get("rescale_offset"))
    deviations: list[Any] = []
    if settings.get("do_normalize"):
        shift = shift - np.broadcast_to(np.asarray(settings["image_mean"], np.float64), 3)
        deviations.append(settings["image_std"])
    if settings.get("include_top"):  # EfficientNet divides twice
        deviations.append(settings["image_std"])
    for deviation in deviations:
        std = np.broadcast_to(np.asarray(deviation, np.float64), 3)
        if not (std > 0).all():
            raise ValueError(f"an image_std of {deviation}")
        scale, shift = scale / std, shift / std
    if not (np.isfinite(scale).all() and np.isfinite(shift).all() and scale.all()):
        raise ValueError("a rescale_factor, image_mean or image_std of 0, infinity or NaN")
    return scale, shift
