"""Random shifts and mirror images of encoded training pictures.

The augmentation of a batch follows from the seed, its pictures and their order. No state is kept,
so a resumed run, with any number of workers, sees the same pictures as an unbroken one. Every epoch
has its own order, so a picture is augmented differently in each epoch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data import LabelledData
from train.errors import DataError

KINDS = ("none", "shift", "mirror", "shift+mirror")
_REACH = 8  # the largest shift is this part of the side
_SAMPLED = 64  # most pictures to look at, evenly spaced


@dataclass(frozen=True)
class Augment:
    """Shifts and mirrors the pictures of a batch, each at random.

    A shift is uniform over whole pixels, up to 1/8 of the side in each direction; the edge's pixels
    are repeated. A mirror image swaps left and right, with probability 1/2.

    Attributes:
        shift: Whether pictures are shifted.
        mirror: Whether pictures are mirrored.
        seed: Seed of both.
    """

    shift: bool
    mirror: bool
    seed: int = 0

    @property
    def kind(self) -> str:
        """The augmentation's name in `KINDS`."""
        return "+".join(name for name in ("shift", "mirror") if getattr(self, name)) or "none"

    def __call__(self, pixels: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the batch augmented.

        Args:
            pixels: float32 [n, channels, height, width].
            rows: The number of each picture in its data set, [n].

        Returns:
            float32 [n, channels, height, width], channels last in memory.
        """
        count, channels, height, width = pixels.shape
        draws = self._draws(rows)
        down = self._positions(draws, count, height)
        across = self._positions(draws, count, width)
        if self.mirror:
            flipped = draws.random((count, 1)) < 1 / 2
            across = np.where(flipped, across[:, ::-1], across)
        first = np.arange(count)[:, None] * height
        source = ((first + down) * width)[:, :, None] + across[:, None, :]
        # One copy of whole pixels: a third of the time of indexing with three tensors.
        flat = pixels.permute(0, 2, 3, 1).reshape(-1, channels)
        moved = flat.index_select(0, torch.from_numpy(source.reshape(-1)))
        return moved.reshape(count, height, width, channels).permute(0, 3, 1, 2)

    def _draws(self, rows: Sequence[int]) -> np.random.Generator:
        content = np.asarray([self.seed, *rows], np.int64).tobytes()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))

    def _positions(
        self, draws: np.random.Generator, count: int, side: int
    ) -> npt.NDArray[np.int64]:
        """Return the position in the picture that each new position shows, int64 [count, side]."""
        positions = np.arange(side)[None, :]
        if not self.shift:
            return np.repeat(positions, count, axis=0)
        reach = side // _REACH
        return np.clip(positions + draws.integers(-reach, reach + 1, (count, 1)), 0, side - 1)


def choose(kind: str, data: LabelledData, seed: int) -> Augment | None:
    """Return the augmentation of a training split; the kind `auto` chooses one and prints it.

    Raises:
        DataError: Texts cannot be shifted or mirrored.
    """
    if kind == "auto":
        kind, reason = _choose_by_colour(data)
        print(f"augmentation: {kind} ({reason})", flush=True)
    elif data.kind == "text" and kind != "none":
        raise DataError(f"expected --augment none or auto for texts, got {kind}")
    if kind == "none":
        return None
    return Augment("shift" in kind, "mirror" in kind, seed)


def _choose_by_colour(data: LabelledData) -> tuple[str, str]:
    if data.kind == "text":
        return "none", "texts"
    step = math.ceil(len(data) / _SAMPLED)
    if all(_is_grey(data.inputs[i]) for i in range(0, len(data), step)):
        return "shift", "grey pictures may show characters, which have no mirror image"
    return "shift+mirror", "colour pictures"


def _is_grey(picture: npt.NDArray[np.uint8]) -> bool:
    return bool((picture == picture[..., :1]).all())
