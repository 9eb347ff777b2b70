"""Loads ONNX files with external weights, and keeps large weights outside the graph."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from edge_runtime.errors import BundleError
from edge_runtime.files import one_line
from edge_runtime.onnx_file import read_onnx_file, require_beside
from export.errors import GraphError
from export.graphs import MESSAGE_BYTES, copy_model, tensors

WEIGHTS_FILE = "model.onnx.data"
INSIDE_BYTES = 1 << 28
"""Weights up to this size stay in the graph, or move into it."""
_SMALL_BYTES = 1 << 10  # shapes and axes: ONNX Runtime needs these in the graph
_CDIST = " (skl2onnx's nearest neighbours: with options={'optim': 'cdist'})"
_ALIGNMENT = 1 << 12  # pages, so that the file can be mapped


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file in memory.

    Attributes:
        model: The model.
        weights: The folder with `WEIGHTS_FILE`, or None if the model holds all its weights.
        files: The files that it was read from.
    """

    model: onnx.ModelProto
    weights: Path | None
    files: tuple[Path, ...]


def load_onnx(path: Path, folder: Path, *, inside_bytes: int = INSIDE_BYTES) -> OnnxFile:
    """Load an ONNX file with its weights, which lie in the same folder or below.

    Weights that are larger than `inside_bytes` together go into a file in `folder`.

    Raises:
        GraphError: The file is not ONNX, or weights are missing, truncated or outside its folder.
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
    return OnnxFile(copy_model(model), folder, files)


def inline_weights(
    model: onnx.ModelProto, weights: Path | None, *, limit: int = MESSAGE_BYTES
) -> onnx.ModelProto:
    """Return a model that holds all its weights; the argument is left unchanged.

    Raises:
        GraphError: The model would exceed the limit of a protobuf message, in bytes.
    """
    if weights is None:
        return model
    size = (weights / WEIGHTS_FILE).stat().st_size
    if size >= limit:
        raise GraphError(
            f"expected a model under 2 GB for --quantize, got weights of {size / 1e9:.1f} GB: "
            "quantize it with ONNX Runtime's tools and give the result to --onnx"
        )
    copy = copy_model(model)
    for tensor in tensors(copy.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            _set_inside(tensor, _bytes_of(tensor, weights / WEIGHTS_FILE))
    return copy


def _load_graph(path: Path) -> onnx.ModelProto:
    try:
        if path.stat().st_size >= MESSAGE_BYTES:
            raise GraphError(
                f"expected an ONNX file under 2 GB at {path}, got {path.stat().st_size / 1e9:.1f} "
                "GB in one file, more than protobuf reads: save it with external data"
            )
        # Before onnx or ONNX Runtime follow what a file of unknown origin asks for.
        require_beside(path, read_onnx_file(path).external)
        model = onnx.load(str(path), load_external_data=False)
    except BundleError as error:
        raise GraphError(f"{error}{_CDIST if 'got Scan,' in str(error) else ''}") from None
    except OSError as error:
        raise GraphError(
            f"expected an ONNX file at {path}, got {error.strerror or error}: check the path"
        ) from None
    except DecodeError:
        model = onnx.ModelProto()
    if not model.graph.node:
        raise GraphError(
            f"expected an ONNX file with a graph at {path}, got other bytes: copy or export it "
            "again"
        )
    return model


def _bytes_of(tensor: TensorProto, path: Path) -> bytes:
    """Return the content of a tensor, inside or outside the graph."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return tensor.raw_data
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        place = int(entries.get("offset", 0)), int(entries.get("length", -1))
        return _read(path.parent / entries["location"], *place)
    except (OSError, KeyError, ValueError) as error:
        raise GraphError(
            f"expected the external weights of {path} beside it, {tensor.name} does not load "
            f"({one_line(error, 200)}): copy all its files"
        ) from None


def _read(path: Path, offset: int, length: int) -> bytes:
    """Read a part of a file, to its end where the length is negative.

    onnx's own reader refuses files with a second name, such as those that our bundles share.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is too short.
    """
    with path.open("rb") as file:
        left = file.seek(0, os.SEEK_END) - offset
        if max(length, 0) > left:
            raise ValueError(f"{path.name} has {left} bytes from byte {offset} on")
        file.seek(offset)
        return file.read(left if length < 0 else length)


def _set_inside(tensor: TensorProto, content: bytes) -> None:
    tensor.raw_data = content
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _move(tensor: TensorProto, path: Path, target: Path) -> None:
    """Move the content of a tensor to the end of a file, or into the graph if it is small."""
    content = _bytes_of(tensor, path)
    if len(content) > _SMALL_BYTES:
        with target.open("ab") as file:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            start = file.tell()
            file.write(content)
        tensor.raw_data = b""  # the next call refuses a tensor without this field
        set_external_data(tensor, target.name, offset=start, length=len(content))
        tensor.ClearField("raw_data")
    elif tensor.data_location == TensorProto.EXTERNAL:
        _set_inside(tensor, content)


def _size(tensor: TensorProto) -> int:
    if tensor.data_location != TensorProto.EXTERNAL:
        return len(tensor.raw_data)
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
