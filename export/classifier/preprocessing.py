"""Fuses a checkpoint's image processor into the graph: uint8 pictures in, `pixel_values` inside.

`export.classifier.processor` reads what the processor does; the graph does the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import contract
from edge_runtime.contract import InputDescription
from export.classifier.processor import Steps, require_working, steps_of
from export.graphs import LEAST_OPSET, has_channels_last, shape_of

_P = "preprocessing/"


@dataclass
class _Builder:
    """Nodes and constants so far; `value` is the input of the next node."""

    value: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        output = _P + name
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), _P + name))
        return _P + name


def least_opset(processor: Any) -> int:
    """Return the first opset with the operators of a processor; smooth resizing came late.

    Raises:
        PreprocessingError: The processor does something that is not handled.
    """
    return 18 if _is_free(steps_of(processor)) else LEAST_OPSET


def fuse_preprocessing(
    model: onnx.ModelProto, processor: Any, image_size: tuple[int, int]
) -> InputDescription:
    """Put the processor in front of the graph, in place, and return the new input.

    Args:
        model: A graph of at least the opset `least_opset`, whose one input is pixel_values float32,
            float16 or uint8, [batch, 3, height, width] or [batch, height, width, 3].
        processor: A transformers image processor.
        image_size: The (height, width) of the model's input, for processors that do not resize.

    Raises:
        PreprocessingError: The processor does something that is not handled.
    """
    steps = steps_of(processor)
    require_working(processor, image_size)
    graph = model.graph
    pixel_values, element = graph.input[0].name, graph.input[0].type.tensor_type.elem_type
    is_last = has_channels_last(shape_of(graph.input[0]))
    batch = shape_of(graph.input[0])[0]
    builder = _Builder(contract.IMAGE)
    height, width = ("height", "width") if _is_free(steps) else image_size
    _move_pixels(builder, steps, is_last=is_last)
    builder.value = builder.add("Cast", builder.value, name="float", to=TensorProto.FLOAT)
    if element == TensorProto.FLOAT:
        _scale_and_shift(builder, steps, pixel_values, is_last=is_last)
    else:
        _scale_and_shift(builder, steps, _P + "float_pixels", is_last=is_last)
        cast = helper.make_node("Cast", [_P + "float_pixels"], [pixel_values], to=element)
        builder.nodes.append(cast)
    graph.initializer.extend(builder.constants)
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*builder.nodes, *old])
    del graph.input[0]
    sides = (height, width, 3)
    shape = (batch, *sides)
    graph.input.insert(0, helper.make_tensor_value_info(contract.IMAGE, TensorProto.UINT8, shape))
    return InputDescription(name=contract.IMAGE, dtype="uint8", shape=("batch", *sides))


def _is_free(steps: Steps) -> bool:
    """Return whether pictures may have any size."""
    return steps.resize is not None or steps.crop is not None


def _move_pixels(builder: _Builder, steps: Steps, *, is_last: bool) -> None:
    """Resize and crop with channels first, as ONNX Runtime requires, and order the axes."""
    is_moved = _is_free(steps)
    if is_moved or not is_last:
        builder.value = builder.add("Transpose", builder.value, name="nchw", perm=[0, 3, 1, 2])
    if steps.crop_share is not None:
        _center_crop(builder, _share_of_picture(builder, steps.crop_share), steps)
        _blacken_nothing(builder)
    if steps.resize is not None:
        _resize(builder, steps.resize, steps.mode)
    if steps.crop is not None:
        _center_crop(builder, builder.constant("crop", steps.crop, np.int64), steps)
    if is_moved and is_last:
        builder.value = builder.add("Transpose", builder.value, name="nhwc", perm=[0, 2, 3, 1])
    if steps.is_flipped:
        order = builder.constant("order", [2, 1, 0], np.int64)
        axis = 3 if is_last else 1
        builder.value = builder.add("Gather", builder.value, order, name="flipped", axis=axis)


def _resize(builder: _Builder, size: tuple[int, int] | int, mode: str) -> None:
    if isinstance(size, int):
        target = _aspect_kept(builder, size)
    else:
        target = builder.constant("size", size, np.int64)
    if mode == "nearest":
        _resize_nearest(builder, target)
    else:
        _resize_smooth(builder, target, mode)


def _resize_smooth(builder: _Builder, target: str, mode: str) -> None:
    """Resize in 8 bits, which for a large picture takes a quarter of the memory of float32.

    ONNX Runtime computes 8-bit pixels as Pillow does: with weights of 22 bits, the width first, and
    rounding to 8 bits between the two passes. New releases of Pillow take the height first if that
    is cheaper. The difference is one step of 8 bits, and more only if bicubic overshoots black or
    white in both directions (noise).
    """
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": "half_pixel",
        # Pillow widens its filter when it shrinks a picture, and ignores pixels outside.
        "antialias": 1,
        "exclude_outside": 1,
    }
    if mode == "cubic":
        attributes["cubic_coeff_a"] = -0.5
    # All four sizes instead of `axes`: shape inference ignores a single size of 1.
    before = builder.add("Shape", builder.value, name="batch_channels", start=0, end=2)
    sizes = builder.add("Concat", before, target, name="sizes", axis=0)
    builder.value = builder.add(
        "Resize", builder.value, "", "", sizes, name="resized", **attributes
    )


def _resize_nearest(builder: _Builder, target: str) -> None:
    """Pick pixels like Pillow, which adds up steps in float64, starting at half a step.

    The operator Resize computes each position anew in float32, which may fall on the other side of
    a pixel's edge.
    """
    begin = builder.constant("begin", [0], np.int64)
    half = builder.constant("half", [0.5], np.float64)
    first = builder.constant("first", 0, np.int64)
    for side, axis in (("height", 2), ("width", 3)):
        old = builder.add("Shape", builder.value, name=f"{side}_from", start=axis, end=axis + 1)
        new = _side(builder, target, side, axis)
        sizes = [
            builder.add("Cast", size, name=f"{size.removeprefix(_P)}_float", to=TensorProto.DOUBLE)
            for size in (old, new)
        ]
        step = builder.add("Div", *sizes, name=f"{side}_step")
        start = builder.add("Mul", step, half, name=f"{side}_start")
        steps = builder.add("Expand", step, new, name=f"{side}_more")
        all_steps = builder.add("Concat", start, steps, name=f"{side}_all", axis=0)
        places = builder.add("CumSum", all_steps, first, name=f"{side}_places")
        kept = builder.add("Slice", places, begin, new, name=f"{side}_kept")
        rows = builder.add("Cast", kept, name=f"{side}_rows", to=TensorProto.INT64)
        builder.value = builder.add("Gather", builder.value, rows, name=f"{side}_picked", axis=axis)


def _side(builder: _Builder, target: str, side: str, axis: int) -> str:
    """Slice one side out of [height, width], as [size]."""
    start = builder.constant(f"{side}_at", [axis - 2], np.int64)
    end = builder.constant(f"{side}_end", [axis - 1], np.int64)
    return builder.add("Slice", target, start, end, name=f"{side}_to")


def _aspect_kept(builder: _Builder, edge: int) -> str:
    """Compute [height, width] with the shorter side `edge`, the longer one rounded down."""
    shape = builder.add("Shape", builder.value, name="height_width", start=2, end=4)
    shortest = builder.add("ReduceMin", shape, name="shortest", keepdims=1)
    wanted = builder.constant("edge", [edge], np.int64)
    scaled = builder.add("Mul", shape, wanted, name="scaled")
    return builder.add("Div", scaled, shortest, name="size")


def _share_of_picture(builder: _Builder, share: tuple[float, float]) -> str:
    """Compute [height, width] as shares of the shorter side, rounded down."""
    shape = builder.add("Shape", builder.value, name="whole", start=2, end=4)
    shorter = builder.add("ReduceMin", shape, name="shorter", keepdims=1)
    exact = builder.add("Cast", shorter, name="shorter_float", to=TensorProto.DOUBLE)
    shares = builder.constant("shares", share, np.float64)
    part = builder.add("Mul", shares, exact, name="part")
    return builder.add("Cast", part, name="crop", to=TensorProto.INT64)


def _blacken_nothing(builder: _Builder) -> None:
    """Make a black pixel of no pixel, as Pillow does: a share of a single pixel is none."""
    shape = builder.add("Shape", builder.value, name="part_from", start=2, end=4)
    one = builder.constant("one", 1, np.int64)
    filled = builder.add("Max", shape, one, name="filled")
    missing = builder.add("Sub", filled, shape, name="unfilled")
    before = builder.constant("begins", [0, 0], np.int64)
    pads = builder.add("Concat", before, missing, name="fill", axis=0)
    axes = builder.constant("fill_axes", [2, 3], np.int64)
    black = builder.constant("fill_black", 0, np.uint8)
    builder.value = builder.add("Pad", builder.value, pads, black, axes, name="not_empty")


def _center_crop(builder: _Builder, wanted: str, steps: Steps) -> None:
    """Cut [height, width] out of the middle, after a black margin if that may be needed."""
    shape = builder.add("Shape", builder.value, name="crop_from", start=2, end=4)
    two = builder.constant("two", 2, np.int64)
    axes = builder.constant("crop_axes", [2, 3], np.int64)
    if steps.is_padding:
        none = builder.constant("none", 0, np.int64)
        lacking = builder.add("Sub", wanted, shape, name="lacking")
        missing = builder.add("Max", lacking, none, name="missing")
        after = builder.add("Div", missing, two, name="pad_after")
        before = builder.add("Sub", missing, after, name="pad_before")  # has the odd pixel
        pads = builder.add("Concat", before, after, name="pads", axis=0)
        black = builder.constant("black", 0, np.uint8)
        builder.value = builder.add("Pad", builder.value, pads, black, axes, name="padded")
        shape = builder.add("Add", shape, missing, name="padded_from")
    margin = builder.add("Sub", shape, wanted, name="crop_margin")
    start = builder.add("Div", margin, two, name="crop_start")
    end = builder.add("Add", start, wanted, name="crop_end")
    builder.value = builder.add("Slice", builder.value, start, end, axes, name="cropped")


def _scale_and_shift(builder: _Builder, steps: Steps, output: str, *, is_last: bool) -> None:
    """Rescale and normalize with one multiplication and one addition per channel."""
    shape = (1, 1, 1, 3) if is_last else (1, 3, 1, 1)
    scale = builder.constant("scale", steps.scale.reshape(shape), np.float32)
    shift = builder.constant("shift", steps.shift.reshape(shape), np.float32)
    scaled = builder.add("Mul", builder.value, scale, name="scaled_pixels")
    builder.nodes.append(helper.make_node("Add", [scaled, shift], [output]))
