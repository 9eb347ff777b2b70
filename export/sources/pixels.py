"""What a model of somebody else takes, and the processor that makes it of pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from transformers import AutoImageProcessor

from edge_runtime.contract import InputDescription
from export.commands.build import BuildSettings
from export.errors import GraphError, PreprocessingError
from export.graphs import has_channels_last, shape_of, sides_of
from export.sources.probes import image_size, made_up_pictures, made_up_tensor
from export.sources.reference import TOLERANCE

# MERGEDOC export/sources/original.py: 'A model of somebody else as it came.'
from export.sources.source import Pictures
from train.models.kinds import SAFE

_ELEMENTS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}
_CHANNELS = 3
_FREE_SIDE = 224  # where neither graph nor processor says how large pictures are

Pixels = npt.NDArray[Any]
Run = Callable[[Pixels], Pixels]
"""Takes inputs [n, ...] and returns the original's logits, float32 [n, classes]."""


def describe_input(graph: onnx.GraphProto, place: Path) -> InputDescription:
    """Return the one input, its batch axis named in the graph.

    Raises:
        GraphError: There are several, or it has another type, or no free batch axis.
    """
    if len(graph.input) != 1:
        names = ", ".join(value.name for value in graph.input) or "none"
        raise GraphError(
            f"expected one input in {place}, got {len(graph.input)} ({names}): export a model that "
            "takes the pictures alone, the rest as constants"
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
            "one, only its batch axis free"
        )
    batch = kind.shape.dim[0]
    if batch.HasField("dim_value"):
        raise GraphError(
            f"expected a free batch axis in {place}, {value.name} always takes {batch.dim_value}: "
            "export it with a dynamic batch axis"
        )
    batch.dim_param = "batch"
    return InputDescription(name=value.name, dtype=_ELEMENTS[kind.elem_type], shape=shape_of(value))


def size_of(described: InputDescription, processor: Any | None) -> tuple[int, int]:
    """Return the (height, width) of the input, where it is fixed, or of the processor."""
    match sides_of(described.shape):
        case (int(height), int(width)):
            return height, width
    return image_size(processor, _FREE_SIDE)


def open_processor(settings: BuildSettings, described: InputDescription) -> Any | None:
    """Return the processor that the settings name, or None.

    Raises:
        PreprocessingError: It does not open, or makes other pixels than the model takes.
    """
    if settings.processor is None:
        return None
    try:
        processor = AutoImageProcessor.from_pretrained(settings.processor, use_fast=False, **SAFE)
    except Exception as error:  # noqa: BLE001 - transformers raises OSError, ValueError, KeyError
        reason = " ".join(str(error).split())[:200]
        raise PreprocessingError(
            f"expected an image processor in {settings.processor}, it does not open ({reason}): "
            "name a folder with preprocessor_config.json"
        ) from None
    _require_bytes(processor, described, settings.processor)
    picture = np.zeros((*size_of(described, processor), _CHANNELS), np.uint8)
    made = processed(processor, [picture], described).shape
    fits = len(made) == len(described.shape) and all(
        isinstance(axis, str) or axis == size
        for axis, size in zip(described.shape[1:], made[1:], strict=True)
    )
    if not fits:
        raise PreprocessingError(
            f"expected a processor that makes {list(described.shape)} as {described.name} takes, "
            f"{settings.processor} makes {list(made)}: name another, or leave out --processor"
        )
    return processor


def _require_bytes(processor: Any, described: InputDescription, folder: Path) -> None:
    changed = [name for name in ("do_rescale", "do_normalize") if processor.to_dict().get(name)]
    if described.dtype == "uint8" and changed:
        raise PreprocessingError(
            f"expected a processor that leaves pictures uint8, as {described.name} takes them, "
            f"{folder} sets {' and '.join(changed)}: set them to false, the model does it itself"
        )


def processed(processor: Any, images: Pictures, described: InputDescription) -> Pixels:
    """Return what the processor makes of pictures, in the model's type and order of axes."""
    pictures = [images[i] for i in range(len(images))]
    made = processor(pictures, return_tensors="np", input_data_format="channels_last")
    pixels = np.asarray(made["pixel_values"])
    if has_channels_last(described.shape):  # transformers 5 has no setting for it
        pixels = np.moveaxis(pixels, 1, -1)
    ordered: npt.NDArray[Any] = np.ascontiguousarray(pixels, described.dtype)
    return ordered


def made_up_pixels(described: InputDescription, processor: Any | None, seed: int) -> Pixels:
    """Return what the model takes, of smooth pictures, or numbers where there is no processor."""
    if processor is not None:
        pictures = made_up_pictures(processor, size_of(described, processor), seed)
        return processed(processor, pictures, described)
    sides = tuple(axis if isinstance(axis, int) else _FREE_SIDE for axis in described.shape[1:])
    return made_up_tensor(sides, described.dtype, seed)


@dataclass(frozen=True, eq=False)
class Original:
    """A model as it came.

    Attributes:
        place: Its file.
        files: All its files.
        model: Its graph, which has the value `logits`.
        logits: The name of that.
        element: Its type, of `onnx.TensorProto`.
        weights: The folder of the graph's external weights, or None.
        run: The original itself.
        runs_in: What a message calls it by.
        tolerance: How far it rounds; see `export.sources.reference`.
    """

    place: Path
    files: tuple[Path, ...]
    model: onnx.ModelProto
    logits: str
    element: int
    weights: Path | None
    run: Run
    runs_in: str
    tolerance: float = TOLERANCE
