"""Shapes of values that can be a row of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import helper

_RANK = 2
_PICTURE_RANK = 4


def is_class_shape(shape: Sequence[Any]) -> bool:
    """Return whether a shape is [batch, classes], or one pixel from a final convolution."""
    return len(shape) == _RANK or (len(shape) > 1 and is_pixel_shape(shape))


def is_pixel_shape(shape: Sequence[Any]) -> bool:
    """Return whether a shape is [batch, classes, 1, 1], [batch, 1, 1, classes] or [batch]."""
    if len(shape) == 1:
        return True
    sides = [axis for axis in shape[1:] if isinstance(axis, int) and axis == 1]
    return len(shape) == _PICTURE_RANK and len(sides) >= _PICTURE_RANK - _RANK


def flatten(model: onnx.ModelProto, name: str) -> str:
    """Add a value as [batch, classes] to the outputs, in place, and return its name."""
    flat = f"{name}/flat"
    model.graph.node.append(helper.make_node("Flatten", [name], [flat], axis=1))
    model.graph.output.add().name = flat
    return flat
