"""The input of a foreign model, and the processor that makes it from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from transformers import AutoImageProcessor

from edge_runtime.contract import InputDescription
from edge_runtime.files import one_line
from export.errors import GraphError, PreprocessingError
from export.graphs import has_channels_last, shape_of, sides_of
from export.sources.probes import image_size, synthetic_pictures, synthetic_tensor
from export.sources.source import Pictures
from train.models import check_regular
from train.models.channels import spread_statistics
from train.models.kinds import SAFE

_ELEMENTS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}
_CHANNELS = 3
_FREE_SIDE = 224  # if neither the graph nor the processor gives the size of pictures

Pixels = npt.NDArray[Any]


def describe_input(graph: onnx.GraphProto, place: Path) -> InputDescription:
    """Return the only input; a free batch axis gets the name `batch` in the graph.

    A fixed batch of one stays in the graph, whose rows are run one by one.

    Raises:
        GraphError: There are several inputs, or one of another type or with a larger fixed batch.
    """
    if len(graph.input) != 1:
        names = ", ".join(value.name for value in graph.input) or "none"
        raise GraphError(
            f"expected one input in {place}, or columns [batch, 1] of numbers, got "
            f"{len(graph.input)} ({names}): export a model that takes the inputs alone, the rest "
            "as constants"
        )
    value = graph.input[0]
    kind = value.type.tensor_type
    if kind.elem_type not in _ELEMENTS:
        raise GraphError(
            f"expected an input of float32, float16 or uint8 in {place}, {value.name} is "
            f"{TensorProto.DataType.Name(kind.elem_type)}: convert the model to float32 and export "
            "it again"
        )
    if not kind.shape.dim:
        raise GraphError(
            f"expected an input [batch, ...] in {place}, {value.name} has no shape: export it with "
            "a shape in which only the batch axis is free"
        )
    batch = kind.shape.dim[0]
    if batch.HasField("dim_value") and batch.dim_value != 1:
        raise GraphError(
            f"expected a free batch axis in {place}, {value.name} always takes {batch.dim_value}: "
            "export it with a dynamic batch axis, or for one input"
        )
    if not batch.HasField("dim_value"):
        batch.dim_param = "batch"
    shape = ("batch", *shape_of(value)[1:])
    return InputDescription(name=value.name, dtype=_ELEMENTS[kind.elem_type], shape=shape)


def size_of(description: InputDescription, processor: Any | None) -> tuple[int, int]:
    """Return the (height, width) of the input if it is fixed, otherwise of the processor."""
    match sides_of(description.shape):
        case (int(height), int(width)):
            return height, width
    return image_size(processor, _FREE_SIDE)


def open_processor(folder: Path, description: InputDescription) -> Any:
    """Return the image processor in a folder, for the input of a model.

    Raises:
        PreprocessingError: The processor does not open, or makes other pixels than the model takes.
    """
    try:
        if folder.is_dir():
            check_regular(folder)
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **SAFE)
        spread_statistics(processor, folder)
    except Exception as error:  # noqa: BLE001 - transformers raises OSError, ValueError, KeyError
        raise PreprocessingError(
            f"expected an image processor in {folder}, it does not open ({one_line(error, 200)}): "
            "name a folder with preprocessor_config.json"
        ) from None
    changed = [name for name in ("do_rescale", "do_normalize") if processor.to_dict().get(name)]
    if description.dtype == "uint8" and changed:
        raise PreprocessingError(
            f"expected a processor that leaves pictures uint8, as {description.name} takes them, "
            f"{folder} sets {' and '.join(changed)}: set them to false, the model scales by itself"
        )
    picture = np.zeros((*size_of(description, processor), _CHANNELS), np.uint8)
    made = process(processor, [picture], description).shape
    fits = len(made) == len(description.shape) and all(
        isinstance(axis, str) or axis == size
        for axis, size in zip(description.shape[1:], made[1:], strict=True)
    )
    if not fits:
        raise PreprocessingError(
            f"expected a processor that makes {list(description.shape)} as {description.name} "
            f"takes, {folder} makes {list(made)}: name another, or leave out --processor"
        )
    return processor


def process(processor: Any, pictures: Pictures, description: InputDescription) -> Pixels:
    """Return the pixels that a processor makes, in the model's type and order of axes."""
    listed = [pictures[i] for i in range(len(pictures))]
    made = processor(listed, return_tensors="np", input_data_format="channels_last")
    pixels = np.asarray(made["pixel_values"])
    if has_channels_last(description.shape):  # transformers 5 has no setting for it
        pixels = np.moveaxis(pixels, 1, -1)
    ordered: Pixels = np.ascontiguousarray(pixels, description.dtype)
    return ordered


def synthetic_pixels(description: InputDescription, processor: Any | None, seed: int) -> Pixels:
    """Return inputs of the model: smooth pictures, or numbers without a processor."""
    if processor is not None:
        pictures = synthetic_pictures(processor, size_of(description, processor), seed)
        return process(processor, pictures, description)
    sides = tuple(axis if isinstance(axis, int) else _FREE_SIDE for axis in description.shape[1:])
    return synthetic_tensor(sides, description.dtype, seed)
