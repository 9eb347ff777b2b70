"""The size of a model's pictures, and made-up ones to verify with where there are no data."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.errors import GraphError
from train.models import Checkpoint

_SIZES = ((1.0, 1.0), (1.5, 1.25), (0.75, 1.0), (2.0, 3.0))  # by side, of the model's own
_COUNT = 64


def image_size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the (height, width) that the model works at."""
    settings = checkpoint.processor.to_dict()
    for name in ("crop_size", "size"):
        size = settings.get(name) or {}
        if name == "crop_size" and not settings.get("do_center_crop"):
            continue
        if "height" in size:
            return int(size["height"]), int(size["width"])
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    side = getattr(checkpoint.model.config, "image_size", None)
    if side is None:
        raise GraphError(
            "expected the size of the model's pictures in its processor or config, got none: add "
            "image_size to config.json"
        )
    return (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))


def made_up_pictures(checkpoint: Checkpoint, seed: int) -> list[Any]:
    """Return smooth pictures, uint8 [height, width, 3], of several sizes where it resizes."""
    height, width = image_size(checkpoint)
    draws = np.random.default_rng(seed)
    shapes = [(round(height * a), round(width * b), 3) for a, b in _SIZES]
    if not checkpoint.processor.to_dict().get("do_resize"):
        shapes = [(height, width, 3)]
    # Smooth pictures: a processor's filters are made for these.
    return [_smooth(draws, shapes[i % len(shapes)]) for i in range(_COUNT)]


def _smooth(draws: np.random.Generator, shape: tuple[int, int, int]) -> Any:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = draws.uniform(0, 6, (4, 3))
    surface = np.sin(
        rows[..., None] * waves[0] / shape[0] + columns[..., None] * waves[1] / shape[1] + waves[2]
    )
    return np.round(127.5 * (surface + 1)).astype(np.uint8)
