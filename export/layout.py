"""Which axis of a model's pictures is which: PyTorch has the channels first, TensorFlow last."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

_RANK = 4
_CHANNELS = frozenset({1, 3})
Shape = Sequence[int | str]


def has_channels_last(shape: Shape) -> bool:
    """Tell [batch, height, width, channels]; a shape that says neither has its channels first."""
    return len(shape) == _RANK and shape[3] in _CHANNELS and shape[1] not in _CHANNELS


def sides_of(shape: Shape) -> tuple[int | str, ...]:
    """Return (height, width)."""
    return tuple(shape[1:3] if has_channels_last(shape) else shape[2:4])


def width_axis(shape: Shape) -> int:
    """Return the axis along which a picture is mirrored."""
    return 2 if has_channels_last(shape) else 3


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Return what a graph says of the axes of a value: a size, or a name where it is free."""
    axes = value.type.tensor_type.shape.dim
    return tuple(
        int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param or f"axis{number}"
        for number, axis in enumerate(axes)
    )
