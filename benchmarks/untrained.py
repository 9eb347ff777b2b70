"""Bundles of untrained models: neither time nor memory depends on the weights."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from benchmarks.latency import random_input
from edge_runtime import contract

CLASSES = 10
SIDE = 32
"""Height and width of SmallCNN's pictures; the graph resizes others."""


def small_cnn_bundle(folder: Path, seed: int, side: int = SIDE) -> Path:
    """Write a SmallCNN's checkpoint and its bundle; return the bundle.

    Args:
        folder: Folder for `small`, the checkpoint, and `bundle`.
        seed: Seed of the weights.
        side: Height and width of the model's pictures.
    """
    # Here, because processes whose memory is measured import this module for its pictures.
    from export.commands.build import BuildSettings
    from train.models import build, save

    names = [str(i) for i in range(CLASSES)]
    save(build("small-cnn", labels=names, image_size=(side, side), seed=seed), folder / "small")
    # Or the export would print its threshold among the figures.
    with contextlib.redirect_stdout(io.StringIO()):
        BuildSettings(checkpoint=folder / "small", out=folder / "bundle", threshold=0.5).run()
    return folder / "bundle"


def random_picture(side: int, seed: int) -> Any:
    """Return a picture, uint8 [side, side, 3]."""
    shape = ("batch", side, side, 3)
    return random_input(
        contract.InputDescription(name=contract.IMAGE, dtype="uint8", shape=shape), seed
    )
