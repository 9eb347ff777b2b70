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
from export.graphs import MESSAGE_BYTES, copy_of, tensors

WEIGHTS_FILE = "model.onnx.data"
INSIDE_BYTES = 1 << 28
"""Weights up to this size stay in the graph, or move into it."""
_SMALL_BYTES = 1 << 10  # shapes and axes: ONNX Runtime wants these in the graph
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


def load_onnx(path: Path, folder: Path, *, inside_bytes: int = INSIDE_BYTES) -> OnnxFile:
    """Load an ONNX file with its weights.

    Args:
        path: The file; its external weights lie beside it or below.
        folder: Where weights go that are larger than `inside_bytes` together.
        inside_bytes: What the graph may hold itself.

    Raises:
        GraphError: It is no ONNX file, or weights are missing, cut off or outside its folder.
    """
    model = _load_graph(path)
    outside = [t for t in tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    places = {e.value for t in outside for e in t.external_data if e.key == "location"}
    files = (path, *(path.parent / place for place in sorted(places)))
    if sum(map(_size, tensors(model.graph))) <= inside_bytes:
        for tensor in outside:
            _set_inside(tensor, _bytes_of(tensor, path))
        return OnnxFile(model, None, files)
    inside = [t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    for tensor in (*outside, *inside):
        _move(tensor, path, folder / WEIGHTS_FILE)
    return OnnxFile(copy_of(model), folder, files)


def inlined(
    model: onnx.ModelProto, weights: Path | None, *, limit: int = MESSAGE_BYTES
) -> onnx.ModelProto:
    """Return the model with all its weights in it; the one that came stays as it was.

    Args:
        model: The graph.
        weights: The folder of its external weights, where it has any.
        limit: What a protobuf message takes.

    Raises:
        GraphError: It would be larger.
    """
    if weights is None:
        return model
    size = (weights / WEIGHTS_FILE).stat().st_size
    if size >= limit:
        raise GraphError(
            f"expected a model under 2 GB for --quantize, got weights of {size / 1e9:.1f} GB: "
            "quantize it with ONNX Runtime's tools and give the result to --onnx"
        )
    copy = copy_of(model)
    onnx.load_external_data_for_model(copy, str(weights))
    return copy


def _load_graph(path: Path) -> onnx.ModelProto:
    try:
        if path.stat().st_size >= MESSAGE_BYTES:
            raise GraphError(
                f"expected an ONNX file under 2 GB at {path}, got {path.stat().st_size / 1e9:.1f} "
                "GB in one file, which protobuf does not read: save it with external data"
            )
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise GraphError(
            f"expected an ONNX file at {path}, got {error.strerror or error}: check the path"
        ) from None
    except DecodeError:
        raise GraphError(
            f"expected an ONNX file at {path}, got other bytes: copy or export it again"
        ) from None
    if not model.graph.node:
        raise GraphError(
            f"expected an ONNX file with a graph at {path}, got other bytes: copy or export it "
            "again"
        )
    return model


def _bytes_of(tensor: TensorProto, path: Path) -> bytes:
    """Return what a tensor holds, wherever it lies."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return tensor.raw_data
    # Loaded into a copy, because a message gives memory back only when it goes as a whole.
    copy = TensorProto()
    copy.CopyFrom(tensor)
    try:
        load_external_data_for_tensor(copy, str(path.parent))
    except Exception as error:  # noqa: BLE001 - onnx raises its checker's, OSError, ValueError
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected the external weights of {path} beside it, {tensor.name} does not load "
            f"({reason}): copy all its files"
        ) from None
    return copy.raw_data


def _set_inside(tensor: TensorProto, content: bytes) -> None:
    tensor.raw_data = content
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _move(tensor: TensorProto, path: Path, target: Path) -> None:
    """Move what a tensor holds to the end of a file, or into the graph where it is small."""
    content = _bytes_of(tensor, path)
    if len(content) > _SMALL_BYTES:
        start = _append(content, target)
        tensor.raw_data = b""  # onnx wants one to set apart
        set_external_data(tensor, target.name, offset=start, length=len(content))
        tensor.ClearField("raw_data")
    elif tensor.data_location == TensorProto.EXTERNAL:
        _set_inside(tensor, content)


def _append(content: bytes, target: Path) -> int:
    """Return where in the file the content begins."""
    with target.open("ab") as file:
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        start = file.tell()
        file.write(content)
    return start


def _size(tensor: TensorProto) -> int:
    if tensor.data_location != TensorProto.EXTERNAL:
        return len(tensor.raw_data)
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
