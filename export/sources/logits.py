"""Finds out whether a value of somebody else's graph is what the gate takes: logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from export.errors import GraphError
from export.graphs import squashed_by
from export.sources.original import Original, Pixels

_RANK = 2
_PICTURE_RANK = 4
_SUMS_TO_ONE = 1e-2  # fp16 and int8 probabilities do so only roughly


def is_of_classes(shape: Sequence[Any]) -> bool:
    """Tell [batch, classes], and what a convolution at the end makes: [batch, classes, 1, 1]."""
    return len(shape) == _RANK or is_of_one_pixel(shape)


def is_of_one_pixel(shape: Sequence[Any]) -> bool:
    """Tell [batch, classes, 1, 1] and [batch, 1, 1, classes]."""
    sides = [axis for axis in shape[1:] if isinstance(axis, int) and axis == 1]
    return len(shape) == _PICTURE_RANK and len(sides) >= _PICTURE_RANK - _RANK


def flatten(model: onnx.ModelProto, name: str) -> str:
    """Let a graph give a value as [batch, classes] too, in place, and return the name of that."""
    flat = f"{name}/flat"
    model.graph.node.append(helper.make_node("Flatten", [name], [flat], axis=1))
    model.graph.output.add().name = flat
    return flat


def refuse_squashed(original: Original) -> None:
    """Raise `GraphError` where an operator makes probabilities of them."""
    found = squashed_by(original.model.graph, original.logits)
    if found is not None:
        operator, before = found
        raise GraphError(
            f"expected logits in {original.place}, {original.logits!r} is what {operator} makes of "
            f"{before!r}: give {_instead(original, before)}"
        )


def require_logits(original: Original, pixels: Pixels) -> Pixels:
    """Return the original's logits of made-up inputs.

    Raises:
        GraphError: They have another shape, or are probabilities.
    """
    logits = original.run(pixels)
    if logits.ndim != _RANK or len(logits) != len(pixels):
        raise GraphError(
            f"expected logits [batch, classes] in {original.place}, {original.logits!r} is "
            f"{list(logits.shape)} for {len(pixels)} inputs: name another with --logits"
        )
    rows = logits.astype(np.float64)
    if rows.shape[1] > 1 and (rows >= 0).all() and (np.abs(rows.sum(1) - 1) < _SUMS_TO_ONE).all():
        raise GraphError(
            f"expected logits in {original.place}, {original.logits!r} holds probabilities (each "
            f"row is positive and sums to 1): give {_instead(original, None)}"
        )
    return logits


def _instead(original: Original, before: str | None) -> str:
    if original.place.suffix == ".pt2":
        return "a program that returns its logits, without softmax"
    return f"--logits {before}" if before else "--logits the value in front of the softmax"
