"""Fuses a checkpoint's image processor into the graph: uint8 pictures in, `pixel_values` inside.

Handled: resize to {height, width} or {shortest_edge} (nearest, bilinear, bicubic as in Pillow),
ConvNext's crop_pct, centre crop, rescale, normalize. Anything else is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import contract
from edge_runtime.contract import InputDescription
from export.errors import PreprocessingError
from export.graphs import LEAST_OPSET, has_channels_last, shape_of

_P = "preprocessing/"
_MODES = {0: "nearest", 2: "linear", 3: "cubic"}  # Pillow's resampling numbers
_CROP_PCT_BELOW = 384  # ConvNext uses crop_pct only below this size
_REFUSED = ("do_pad", "do_flip_channel_order", "do_reduce_labels", "do_thumbnail")


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
    """Return the first opset with the operators of a processor; smooth resizing came late."""
    settings = processor.to_dict()
    return 18 if settings.get("do_resize") or settings.get("do_center_crop") else LEAST_OPSET


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
    settings = processor.to_dict()
    _refuse_unknown(settings)
    graph = model.graph
    pixel_values, element = graph.input[0].name, graph.input[0].type.tensor_type.elem_type
    is_last = has_channels_last(shape_of(graph.input[0]))
    builder = _Builder(contract.IMAGE)
    height, width = _fixed_size(settings, image_size)
    _move_pixels(builder, settings, is_last=is_last)
    builder.value = builder.add("Cast", builder.value, name="float", to=TensorProto.FLOAT)
    if element == TensorProto.FLOAT:
        _scale_and_shift(builder, settings, pixel_values, is_last=is_last)
    else:
        _scale_and_shift(builder, settings, _P + "float_pixels", is_last=is_last)
        cast = helper.make_node("Cast", [_P + "float_pixels"], [pixel_values], to=element)
        builder.nodes.append(cast)
    graph.initializer.extend(builder.constants)
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend([*builder.nodes, *old])
    del graph.input[0]
    shape = ("batch", height, width, 3)
    graph.input.insert(0, helper.make_tensor_value_info(contract.IMAGE, TensorProto.UINT8, shape))
    return InputDescription(name=contract.IMAGE, dtype="uint8", shape=shape)


def _refuse_unknown(settings: dict[str, Any]) -> None:
    for name in _REFUSED:
        if settings.get(name):
            raise PreprocessingError(
                f"expected a processor without {name}, got one that sets it: use --preprocessing "
                "none and prepare pixel_values yourself"
            )
    if settings.get("do_resize") and settings.get("resample") not in _MODES:
        raise PreprocessingError(
            f"expected resample nearest, bilinear or bicubic, got {settings.get('resample')}: "
            "use --preprocessing none"
        )


def _fixed_size(
    settings: dict[str, Any], image_size: tuple[int, int]
) -> tuple[int | str, int | str]:
    """Return the size of pictures: free for a processor that resizes, else the model's own."""
    return ("height", "width") if settings.get("do_resize") else image_size


def _move_pixels(builder: _Builder, settings: dict[str, Any], *, is_last: bool) -> None:
    """Resize and crop with channels first, as ONNX Runtime requires, and order the axes."""
    is_moved = bool(settings.get("do_resize") or settings.get("do_center_crop"))
    if is_moved or not is_last:
        builder.value = builder.add("Transpose", builder.value, name="nchw", perm=[0, 3, 1, 2])
    if settings.get("do_resize"):
        _resize(builder, settings)
    if settings.get("do_center_crop"):  # ConvNext's resize may have set it
        _center_crop(builder, settings["crop_size"])
    if is_moved and is_last:
        builder.value = builder.add("Transpose", builder.value, name="nhwc", perm=[0, 2, 3, 1])


def _resize(builder: _Builder, settings: dict[str, Any]) -> None:
    size = settings["size"]
    mode = _MODES[settings["resample"]]
    if "height" in size:
        target = builder.constant("size", [size["height"], size["width"]], np.int64)
    else:
        edge, crop = size["shortest_edge"], None
        if settings.get("crop_pct") and edge < _CROP_PCT_BELOW:
            edge, crop = int(edge / settings["crop_pct"]), edge
        if settings.get("crop_pct") and crop is None:  # ConvNext warps its larger pictures
            target = builder.constant("size", [edge, edge], np.int64)
        else:
            target = _aspect_kept(builder, edge)
        if crop is not None:
            settings.update(do_center_crop=True, crop_size={"height": crop, "width": crop})
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


def _center_crop(builder: _Builder, size: dict[str, int]) -> None:
    wanted = builder.constant("crop", [size["height"], size["width"]], np.int64)
    shape = builder.add("Shape", builder.value, name="crop_from", start=2, end=4)
    margin = builder.add("Sub", shape, wanted, name="crop_margin")
    two = builder.constant("two", 2, np.int64)
    start = builder.add("Div", margin, two, name="crop_start")
    end = builder.add("Add", start, wanted, name="crop_end")
    axes = builder.constant("crop_axes", [2, 3], np.int64)
    builder.value = builder.add("Slice", builder.value, start, end, axes, name="cropped")


def _scale_and_shift(
    builder: _Builder, settings: dict[str, Any], output: str, *, is_last: bool
) -> None:
    """Rescale and normalize with one multiplication and one addition per channel."""
    factor = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    mean, std = np.zeros(3), np.ones(3)
    if settings.get("do_normalize"):
        mean, std = np.array(settings["image_mean"]), np.array(settings["image_std"])
    shape = (1, 1, 1, 3) if is_last else (1, 3, 1, 1)
    scale = builder.constant("scale", (factor / std).reshape(shape), np.float32)
    shift = builder.constant("shift", (-mean / std).reshape(shape), np.float32)
    scaled = builder.add("Mul", builder.value, scale, name="scaled_pixels")
    builder.nodes.append(helper.make_node("Add", [scaled, shift], [output]))
