"""The size of a model's pictures, and synthetic inputs that verify an export without data."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime.files import one_line
from export.errors import GraphError, PreprocessingError

PROMPTS: Final = (
    "What is it?",
    "Text: a short text\nLabel:",
    "Once upon a time, there was",
    "1 + 2 =",
)
"""Prompts that verify a language model without a task."""
_SCALES = ((1.0, 1.0), (1.5, 1.25), (0.75, 1.0), (2.0, 3.0))  # of (height, width) of the model's
_SHAPES = (
    *((640, 480), (480, 640), (512, 512), (1600, 1201), (1201, 1600), (999, 1000), (333, 500)),
    *((1, 1), (2, 3), (17, 31), (30, 900), (900, 30), (1501, 1499)),
)  # height, width
LARGEST_SIDE: Final = 4096
"""Longest side of a model's pictures, in pixels."""
_ASKED = ((40, 60), (61, 39))  # height, width
_COUNT = 64
_LONG_TEXT = 64  # tokens


def made_size(processor: Any) -> tuple[int, int] | None:
    """Return the (height, width) of a processor's pixels, None if it follows the picture's.

    The processor is asked, because each class reads `size` and `crop_size` in its own way.

    Raises:
        PreprocessingError: It does not make an array of pixels from a picture.
    """
    settings = processor.to_dict()
    sizes = (settings.get(name) for name in ("size", "crop_size"))
    sides = [side for size in sizes if isinstance(size, dict) for side in size.values()]
    if any(isinstance(side, int) and side > LARGEST_SIDE for side in sides):
        raise PreprocessingError(
            f"expected pictures of at most {LARGEST_SIDE} pixels a side, got more in the "
            "settings of the image processor: correct its preprocessor_config.json"
        )
    try:
        made = {_made(processor, shape) for shape in _ASKED}
    except Exception as error:  # noqa: BLE001 - transformers raises many unrelated classes
        raise PreprocessingError(
            f"expected an image processor that makes pixel_values, {type(processor).__name__} "
            f"raised {one_line(error, 160)}: correct its preprocessor_config.json, or use "
            "another processor"
        ) from None
    return made.pop() if len(made) == 1 else None


def _made(processor: Any, shape: tuple[int, int]) -> tuple[int, int]:
    picture = np.zeros((*shape, 3), np.uint8)
    made = processor([picture], return_tensors="np", input_data_format="channels_last")
    _, _, height, width = np.asarray(made["pixel_values"]).shape
    return height, width


def image_size(processor: Any, side: Any = None) -> tuple[int, int]:
    """Return the (height, width) of a processor's pictures, or else the size in the model's config.

    Raises:
        GraphError: Neither gives a size.
        PreprocessingError: The processor makes no pixels.
    """
    made = made_size(processor)
    if made is not None:
        return made
    size = processor.to_dict().get("size")
    size = size if isinstance(size, dict) else {}
    for names in (("height", "width"), ("shortest_edge", "shortest_edge")):
        if names[0] in size:
            return int(size[names[0]]), int(size[names[1]])
    if side is None:
        raise GraphError(
            "expected the size of the model's pictures in its processor or config, got none: add "
            "image_size to config.json"
        )
    return (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))


def synthetic_pictures(processor: Any, size: tuple[int, int], seed: int) -> list[Any]:
    """Return smooth pictures, uint8 [height, width, 3]; of several sizes if the processor resizes.

    They are smooth because a processor's filters are made for such pictures.
    """
    height, width = size
    draws = np.random.default_rng(seed)
    shapes = [(round(height * a), round(width * b), 3) for a, b in _SCALES]
    if made_size(processor) is None:
        shapes = [(height, width, 3)]
    return [_smooth(draws, shapes[i % len(shapes)]) for i in range(_COUNT)]


def pictures_of_shapes(processor: Any, size: tuple[int, int]) -> list[Any]:
    """Return a smooth picture, uint8 [height, width, 3], of each shape that a device may see.

    They are upright, broad and square, tiny, large and narrow. A processor that leaves a
    picture's size takes those of the model's `size` alone.
    """
    draws = np.random.default_rng(0)
    if made_size(processor) is None:
        return [_smooth(draws, (*size, 3))]
    return [_smooth(draws, (height, width, 3)) for height, width in _SHAPES]


def synthetic_texts(tokenizer: Any, seed: int) -> list[str]:
    """Return texts of random tokens of several lengths, the last longer than a model takes."""
    draws = np.random.default_rng(seed)
    special = set(tokenizer.all_special_ids)
    known = [number for number in range(len(tokenizer)) if number not in special]
    longest = tokenizer.model_max_length
    lengths = [*draws.integers(1, min(longest, _LONG_TEXT) + 1, _COUNT - 1), longest + 1]
    texts = [tokenizer.decode(draws.choice(known, length)) for length in lengths]
    return [text if text.strip() else "a" for text in texts]


def synthetic_tensor(shape: tuple[int, ...], dtype: str, seed: int) -> npt.NDArray[Any]:
    """Return values [n, *shape], about standard normal, or uint8; pictures are smooth."""
    draws = np.random.default_rng(seed)
    is_picture = len(shape) >= 3  # noqa: PLR2004 - fewer axes have no neighbours
    numbers = _waves(draws, shape) if is_picture else draws.normal(size=(_COUNT, *shape))
    if dtype == "uint8":
        numbers = np.clip(np.round(64 * numbers + 128), 0, 255)
    return numbers.astype(dtype)


def _waves(draws: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    scales = draws.uniform(0.5, 2.0, (_COUNT, *(1,) * len(shape)))
    waves = draws.uniform(0, 6, (_COUNT, len(shape), *(1,) * len(shape)))
    places = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    phase = sum(waves[:, axis] * place for axis, place in enumerate(places))
    return np.asarray(scales * np.sin(phase + waves[:, 0]))


def _smooth(draws: np.random.Generator, shape: tuple[int, int, int]) -> Any:
    """Return uint8 [height, width, 3]; sin(a + b) by its addition theorem: no sine for a pixel."""
    waves = draws.uniform(0, 6, (4, 3))
    a = np.arange(shape[0])[:, None, None] * waves[0] / shape[0] + waves[2]
    b = np.arange(shape[1])[:, None] * waves[1] / shape[1]
    surface = np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b)
    return np.round(127.5 * (surface + 1)).astype(np.uint8)
