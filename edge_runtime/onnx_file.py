"""Reads the metadata and external files of an ONNX file before ONNX Runtime opens it.

A graph names the files that hold its larger weights, and ONNX Runtime opens whatever it names. Its
loops may never end, and functions that call each other may grow without bound when they are put in
line. A graph from elsewhere is therefore scanned first, in protobuf's wire format: the device has
no `onnx`, and protobuf itself would cost 30 MB there and copy the weights.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import BundleError
from edge_runtime.names import what_is
from edge_runtime.reading import SMALL, open_regular

_METADATA, _EXTERNAL = "metadata", "external data"
# Message -> field number -> message, as onnx.proto numbers them: every path to a tensor or a node.
_FIELDS = {
    "model": {7: "graph", 14: _METADATA, 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "subgraph",
        10: "tensor",
        11: "subgraph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "tensor": {13: _EXTERNAL},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
}
_FIELDS["subgraph"] = _FIELDS["graph"]
# Fields of a node and of a function that name an operator: (name, domain).
_NAMES = {"node": (4, 7), "function": (1, 10)}
_BRANCHES = "If"
"""The one operator whose subgraphs run at most once."""
_MOST_FIELDS = 1 << 22
_MOST_NODES = 1 << 20
_MOST_LEVELS = 16
"""Of subgraphs in subgraphs, and of functions that call functions."""
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MAX_TAG = 2**32
_ONE_BYTE = 0x80

_Data = bytes | mmap.mmap
_Operator = tuple[str, str]
_MAIN: _Operator = ("", "")


@dataclass(frozen=True)
class OnnxFile:
    """The metadata and external files of an ONNX file.

    Attributes:
        metadata: The metadata_props.
        external: Names of the external files of all tensors, those of subgraphs included.
    """

    metadata: dict[str, str]
    external: tuple[str, ...]


def read_onnx_file(path: Path, *, allow_loops: bool = False) -> OnnxFile:
    """Scan an ONNX file without its weights; the arguments and errors are those of `scan_onnx`."""
    try:
        with (
            open_regular(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return scan_onnx(data, path, allow_loops=allow_loops)
    except OSError as error:
        reason = what_is(path) if path.is_dir() else error.strerror or error
        raise BundleError(
            f"expected an ONNX file at {path}, got {reason}: correct the path"
        ) from None
    except BundleError:
        raise
    except ValueError as error:  # an empty file cannot be mapped
        raise _no_graph(path, error) from None


def scan_onnx(data: _Data, path: Path, *, allow_loops: bool = False) -> OnnxFile:
    """Scan the bytes of an ONNX file.

    Args:
        data: The bytes.
        path: The file that they came from, for messages.
        allow_loops: Whether operators may run a subgraph any number of times.

    Raises:
        BundleError: They are no protobuf, or the graph has loops, or more fields, nodes or levels
            than any model.
    """
    scan = _Scan(data)
    try:
        scan.run()
        scan.require_bounded()
    except ValueError as error:
        raise _no_graph(path, error) from None
    if scan.loops and not allow_loops:
        raise BundleError(
            f"expected a graph without loops in {path}, got {', '.join(sorted(scan.loops))[:80]}, "
            "which may never end: export the model without it"
        )
    return OnnxFile(scan.metadata, tuple(scan.external))


def require_beside(graph: Path, names: Iterable[str]) -> None:
    """Raise a `BundleError` for weights that are not regular files in the folder of their graph."""
    folder = graph.parent.resolve()
    for name in names:
        if "\0" in name or not (folder / name).resolve().is_relative_to(folder):
            raise BundleError(
                f"expected the weights of {graph} next to it, it names {name!r}: refused, save the "
                "model with its weights in one folder"
            )
        if not (folder / name).is_file():
            raise BundleError(
                f"expected the weights {name!r} next to {graph}, found none: copy them there too"
            )


def _no_graph(path: Path, error: object) -> BundleError:
    return BundleError(
        f"expected an ONNX graph in {path}, got other bytes ({error}): export or copy it again"
    )


class _Scan:
    """One pass over a file, with bounds on its work."""

    def __init__(self, data: _Data) -> None:
        self.metadata: dict[str, str] = {}
        self.external: dict[str, None] = {}  # keeps the order, drops duplicates
        self.loops: set[str] = set()
        self._data = data
        self._left = _MOST_FIELDS
        # The operators of the graph and of each function, those of their subgraphs included.
        self._bodies: dict[_Operator, list[_Operator]] = {}
        self._functions: set[_Operator] = set()

    def run(self) -> None:
        """Read everything, in the file's order within a level."""
        if not self._data:
            raise ValueError("it is empty")
        # A queue instead of recursion: subgraphs of a hostile file may nest to any depth.
        queue = deque([("model", 0, len(self._data), 0, _MAIN, "")])
        while queue:
            message, start, end, level, body, operator = queue.popleft()
            if message in (_METADATA, _EXTERNAL):
                self._add_entry(message, start, end)
                continue
            inner, numbers, texts = _FIELDS[message], _NAMES.get(message, ()), ["", ""]
            found = []
            for number, wire, a, b in self._fields(start, end):
                if wire == _LENGTH and number in inner:
                    found.append((inner[number], a, b))
                elif wire == _LENGTH and number in numbers:
                    texts[numbers.index(number)] = self._text(a, b)
            if message == "subgraph":
                level = self._deeper(level, operator)
            elif message in _NAMES:
                body, operator = self._add_operator(message, body, *texts)
            if len(queue) + len(found) > _MOST_NODES:
                raise ValueError(f"it has more than {_MOST_NODES} parts")
            queue.extend((part, a, b, level, body, operator) for part, a, b in found)

    def _add_operator(
        self, message: str, body: _Operator, name: str, domain: str
    ) -> tuple[_Operator, str]:
        """Record a node of a body or a function; return the body of what it holds, and its name."""
        operator = ("" if domain == "ai.onnx" else domain), name
        if message == "function":
            self._functions.add(operator)
            return operator, f"the function {name}"
        self._bodies.setdefault(body, []).append(operator)
        return body, name if not operator[0] else f"{domain}.{name}"

    def _deeper(self, level: int, operator: str) -> int:
        """Return the level of a subgraph of an operator one level above."""
        if level >= _MOST_LEVELS:
            raise ValueError(f"subgraphs nest deeper than {_MOST_LEVELS} levels")
        if operator != _BRANCHES:
            self.loops.add(operator)
        return level + 1

    def require_bounded(self) -> None:
        """Raise a `ValueError` where functions in line make more nodes or levels than any model."""
        # Under this name a function could hand its branches on to a loop.
        if ("", _BRANCHES) in self._functions:
            raise ValueError(f"it defines {_BRANCHES} anew")
        sizes: dict[_Operator, int] = {}
        nodes = max((self._count(body, 0, sizes) for body in self._bodies), default=0)
        if nodes > _MOST_NODES:
            raise ValueError(f"it has {nodes} nodes, at most {_MOST_NODES} are opened")

    def _count(self, body: _Operator, level: int, sizes: dict[_Operator, int]) -> int:
        """Return the nodes of a body with all that it calls in line."""
        if level > _MOST_LEVELS:
            raise ValueError(f"functions call each other over {_MOST_LEVELS} levels")
        if body not in sizes:
            nodes = self._bodies[body]
            called = [one for one in nodes if one in self._bodies and one != _MAIN]
            inside = sum(self._count(one, level + 1, sizes) for one in called)
            sizes[body] = len(nodes) + inside
        return sizes[body]

    def _add_entry(self, message: str, start: int, end: int) -> None:
        texts = {number: self._text(a, b) for number, _, a, b in self._fields(start, end)}
        key, value = texts.get(1, ""), texts.get(2, "")
        if message == _METADATA:
            self.metadata[key] = value
        elif key == "location":
            self.external[value] = None

    def _text(self, start: int, end: int) -> str:
        if end - start > SMALL:
            raise ValueError(f"a text of {end - start} bytes at byte {start}")
        return self._data[start:end].decode()

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (field number, wire type, start and end of the value)."""
        data = self._data
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields")
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


def _varint(data: _Data, at: int, end: int) -> tuple[int, int]:
    if at < end and (value := data[at]) < _ONE_BYTE:
        return value, at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _ONE_BYTE:
            return value, at
    raise ValueError(f"cut off at byte {at}")
