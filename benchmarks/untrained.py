"""Bundles of untrained models: what is timed or held in memory does not depend on weights."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from benchmarks.latency import random_input
from edge_runtime import contract

CLASSES = 10
SIDE = 32
"""Height and width of the pictures that the usual SmallCNN takes; the graph resizes others."""


def small_cnn_bundle(folder: Path, seed: int, side: int = SIDE) -> Path:
    """Write a checkpoint of a SmallCNN into a folder, and return the bundle made of it.

    Args:
        folder: Gets `small`, the checkpoint, and `bundle`.
        seed: Of its weights.
        side: Height and width of the pictures that the model works on.
    """
    from export.commands.build import BuildSettings
    from train.models import build, save

    names = [str(i) for i in range(CLASSES)]
    save(build("small-cnn", labels=names, image_size=(side, side), seed=seed), folder / "small")
    # What it says about its threshold would stand between the figures.
    with Path(os.devnull).open("w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
        BuildSettings(checkpoint=folder / "small", out=folder / "bundle", threshold=0.5).run()
    return folder / "bundle"


def random_picture(side: int, seed: int) -> Any:
    """Return a picture, uint8 [side, side, 3]."""
    shape = ("batch", side, side, 3)
    return random_input(
        contract.InputDescription(name=contract.IMAGE, dtype="uint8", shape=shape), seed
    )
