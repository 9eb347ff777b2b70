"""Reads the metadata and external files of an ONNX file before ONNX Runtime opens it.

A graph names the files that hold its larger weights, and ONNX Runtime opens whatever it names. A
bundle from elsewhere is therefore scanned first, in protobuf's wire format: the device has no
`onnx`, and protobuf itself would cost 30 MB there and copy the weights.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import BundleError

_METADATA, _EXTERNAL = "metadata", "external data"
# Message -> field number -> message, as onnx.proto numbers them: every path to a tensor.
_FIELDS = {
    "model": {7: "graph", 14: _METADATA, 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "tensor": {13: _EXTERNAL},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MAX_TAG = 2**32


@dataclass(frozen=True)
class OnnxFile:
    """The metadata and external files of an ONNX file.

    Attributes:
        metadata: The metadata_props.
        external: Names of the external files of all tensors, those of subgraphs included.
    """

    metadata: dict[str, str]
    external: tuple[str, ...]


def read_onnx_file(path: Path) -> OnnxFile:
    """Scan an ONNX file without its weights; raise a `BundleError` if it is not protobuf."""
    metadata: dict[str, str] = {}
    external: dict[str, None] = {}  # keeps the order, drops duplicates
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            for kind, key, value in _entries(data):
                if kind == _METADATA:
                    metadata[key] = value
                elif key == "location":
                    external[value] = None
    except ValueError as error:
        raise BundleError(
            f"expected an ONNX graph in {path}, got other bytes ({error}): export the bundle again"
        ) from None
    return OnnxFile(metadata, tuple(external))


def _entries(data: mmap.mmap) -> Iterator[tuple[str, str, str]]:
    """Yield (metadata or external data, key, value), in the file's order within a level."""
    # A queue instead of recursion: subgraphs of a hostile file may nest to any depth.
    queue = deque([("model", 0, len(data))])
    while queue:
        message, start, end = queue.popleft()
        if message not in _FIELDS:
            texts = {n: data[a:b].decode() for n, _, a, b in _fields(data, start, end)}
            yield message, texts.get(1, ""), texts.get(2, "")
            continue
        inner = _FIELDS[message]
        for number, wire, a, b in _fields(data, start, end):
            if wire == _LENGTH and number in inner:
                queue.append((inner[number], a, b))


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start and end of the value)."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            size, at = _varint(data, at, end)
            stop = at + size
        elif wire == _VARINT:
            stop = _varint(data, at, end)[1]
        else:
            stop = at + _FIXED.get(wire, end)
        # A parser that cuts a long tag to 32 bits would see another field than this one does.
        if stop > end or number == 0 or tag >= _MAX_TAG:
            raise ValueError(f"not a protobuf field at byte {at}")
        yield number, wire, at, stop
        at = stop


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a varint has its top bit clear
            return value, at
    raise ValueError(f"cut off at byte {at}")
