"""Loads ONNX files whose weights lie in further files, and keeps large ones outside the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor, set_external_data

from export.errors import GraphError
from export.graphs import tensors

WEIGHTS_FILE = "model.onnx.data"
INSIDE_BYTES = 1 << 28
"""Weights up to this size move into the graph; a protobuf message takes 2 GB at most."""
_SMALL_BYTES = 1 << 10  # shapes and axes: ONNX Runtime wants these in the graph
_MESSAGE_BYTES = (1 << 31) - (1 << 24)  # what protobuf takes, less the graph itself
_ALIGNMENT = 1 << 12  # pages, so that the file can be mapped


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file in memory.

    Attributes:
        model: The model.
        weights: The folder with `WEIGHTS_FILE`, or None where the model holds all its weights.
        files: What it was read from.
    """

    model: onnx.ModelProto
    weights: Path | None
    files: tuple[Path, ...]


def load_onnx(path: Path, folder: Path) -> OnnxFile:
    """Load an ONNX file with its weights.

    Args:
        path: The file; its external weights lie beside it or below.
        folder: Where large weights go.

    Raises:
        GraphError: It is no ONNX file, or weights are missing, cut off or outside its folder.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise GraphError(
            f"expected an ONNX file at {path}, got {error.strerror or error}: check the path"
        ) from None
    except DecodeError:
        raise GraphError(f"expected an ONNX file at {path}, got other bytes") from None
    if not model.graph.node:
        raise GraphError(f"expected an ONNX file with a graph at {path}, got other bytes")
    outside = [t for t in tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    places = {e.value for t in outside for e in t.external_data if e.key == "location"}
    files = (path, *(path.parent / place for place in sorted(places)))
    is_large = sum(_size(tensor) for tensor in outside) > INSIDE_BYTES
    kept = _collect(outside, path, folder / WEIGHTS_FILE if is_large else None)
    return OnnxFile(model, folder if kept else None, files)


def inlined(model: onnx.ModelProto, weights: Path | None) -> onnx.ModelProto:
    """Return the model with all its weights in it; the one that came stays as it was.

    Raises:
        GraphError: It would be larger than a protobuf message can be.
    """
    if weights is None:
        return model
    if (weights / WEIGHTS_FILE).stat().st_size >= _MESSAGE_BYTES:
        raise GraphError(
            "expected a model under 2 GB for --quantize, got a larger one: quantize it with ONNX "
            "Runtime's tools and give the result to --onnx"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.load_external_data_for_model(copy, str(weights))
    return copy


def _collect(outside: list[TensorProto], path: Path, target: Path | None) -> bool:
    """Move weights into the graph, or the large ones of them one after the other into a file."""
    kept = False
    for tensor in outside:
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # noqa: BLE001 - onnx raises its checker's, OSError, ValueError
            reason = " ".join(str(error).split())[:200]
            raise GraphError(
                f"expected the external weights of {path} beside it, {tensor.name} does not load "
                f"({reason}): copy all its files"
            ) from None
        # Older releases of onnx leave the old place standing.
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        if target is not None and len(tensor.raw_data) > _SMALL_BYTES:
            _append(tensor, target)
            kept = True
    return kept


def _append(tensor: TensorProto, target: Path) -> None:
    with target.open("ab") as file:
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        start = file.tell()
        file.write(tensor.raw_data)
    length = len(tensor.raw_data)
    set_external_data(tensor, target.name, offset=start, length=length)
    tensor.ClearField("raw_data")


def _size(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
