"""Turns the caller's inputs into batches that fit a bundle's graph and the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, InputError, SettingError
from edge_runtime.inputs.values import (
    Wanted,
    advice,
    arrange,
    from_foreign,
    is_foreign,
    is_pillow,
    kind_of,
    read_value,
)

Rows = npt.NDArray[Any]
"""Inputs along the first axis: a tensor, or an object array [n] of texts."""
_ORT_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
}
_BLANK_PIXELS: Final = 32  # of a free axis
ChannelOrder = Literal["rgb", "bgr"]
CHANNEL_ORDERS: Final = get_args(ChannelOrder)
_SINGLE: Final = (str, bytes, bytearray, memoryview, Mapping, AbstractSet)
"""Types that can be iterated over, but are no list of inputs."""
_HEADER_BYTES: Final = 512
"""Upper bound of a request's names, shapes and parameters."""
_ROW_BYTES: Final = 24
"""Upper bound of one confidence as text, plus the length that precedes an input."""


class InputReader(Protocol):
    """Turns the caller's inputs into batches, and batches into the feeds of a graph."""

    description: str
    """The expected inputs, for error messages."""

    def exact(self, value: Any) -> dict[str, Rows] | None:
        """Return the feeds of one array as the graph takes it; None for any other input."""

    def take_order(self, order: ChannelOrder) -> None:
        """Take arrays of pictures with their channels in an order, or raise a `SettingError`."""

    def value(self, value: Any) -> tuple[Any, bytes | None]:
        """Return one input of any kind, read, and an encoded picture's bytes."""

    def single(self, value: Any) -> Rows:
        """Return one input as a batch."""

    def batch(self, values: Any) -> Rows:
        """Return several inputs as a batch, or raise an `InputError`."""

    def feeds(self, rows: Rows) -> dict[str, npt.NDArray[Any]]:
        """Return the graph's feeds by input name, or raise an `InputError` for a wrong batch."""

    def unusable(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return the rows to defer whatever the graph decides, bool [n]; None for none."""


class ArrayReader:
    """Reads arrays of the type and size of the graph's input; an `InputReader`.

    Attributes:
        wanted: The array that the graph takes for one input.
    """

    def __init__(self, bundle: Bundle, nodes: Sequence[Any]) -> None:
        described = bundle.metadata.input
        _check_inputs(described, nodes, bundle)
        self._name = described.name
        self._dtype = np.dtype(described.dtype)
        self._is_float = self._dtype.kind == "f"
        self._shape = described.shape
        # Free axes are named by strings.
        sizes = enumerate(described.shape)
        self._fixed = [(axis, size) for axis, size in sizes if isinstance(size, int)]
        self.wanted = Wanted(self._dtype, tuple(described.shape[1:]), described.name)
        self.description = f"{self._dtype} {list(self._shape)}"

    def take_order(self, order: ChannelOrder) -> None:
        """Take arrays of pictures with their channels in an order, or raise a `SettingError`."""
        if order not in CHANNEL_ORDERS:
            raise SettingError(
                f"expected channel_order {' or '.join(map(repr, CHANNEL_ORDERS))}, got {order!r}"
            )
        is_bgr = order == "bgr"
        if is_bgr and not (self.wanted.is_picture and self._shape[-1] == 3):  # noqa: PLR2004 - colours
            raise SettingError(
                f"expected a bundle of colour pictures with channel_order='bgr', this one takes "
                f"{self.description}: leave channel_order out"
            )
        self.wanted = replace(self.wanted, is_bgr=is_bgr)

    def exact(self, value: Any) -> dict[str, Rows] | None:
        """Return the feeds of one array as the graph takes it; None for any other input."""
        if value.__class__ is not np.ndarray or value.dtype != self._dtype or self.wanted.is_bgr:
            return None
        rows = value[None]
        return {self._name: rows} if self._has_size(rows.shape) else None

    def value(self, value: Any) -> tuple[Any, bytes | None]:
        """Return one input of any kind as an array, and an encoded picture's bytes."""
        return read_value(value, self.wanted)

    def single(self, value: Any) -> Rows:
        """Return one input as a batch of one row."""
        rows: Rows = self.value(value)[0][None]
        return rows

    def batch(self, values: Any) -> Rows:
        """Return inputs of one size as a batch; an array already is one."""
        if is_foreign(values):
            values = from_foreign(values, f"a batch {self.description}")
        if isinstance(values, np.ndarray):
            return arrange(values, self.wanted, axes=len(self._shape))
        return _stack(values)

    def feeds(self, rows: Any) -> dict[str, npt.NDArray[Any]]:
        """Return the batch under the input's name."""
        is_typed = isinstance(rows, np.ndarray) and rows.dtype == self._dtype
        if not is_typed or not self._has_size(rows.shape):
            raise InputError(
                f"expected {self.description} with at least one row, got {describe_rows(rows)}: "
                f"{advice(rows, self.wanted)}"
            )
        return {self._name: rows}

    def unusable(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return which rows hold NaN or infinities: ReLU and max pooling can swallow a NaN."""
        if not self._is_float:
            return None
        bad = np.asarray(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
        return bad if bad.any() else None

    def _has_size(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != len(self._shape) or 0 in shape:
            return False
        for axis, size in self._fixed:  # noqa: SIM110 - a generator takes three times as long
            if shape[axis] != size:
                return False
        return True


def open_reader(bundle: Bundle, nodes: Sequence[Any]) -> InputReader:
    """Return the reader of a bundle's inputs.

    Args:
        bundle: The bundle.
        nodes: The graph's inputs, as ONNX Runtime describes them.

    Raises:
        BundleError: The graph's inputs differ from those in `bundle.json`, or the tokenizer is
            missing or damaged.
        DependencyError: The bundle takes texts, and `tokenizers` is not installed.
    """
    if bundle.metadata.input.name != contract.TEXT:
        return ArrayReader(bundle, nodes)
    from edge_runtime.inputs.texts import TextReader

    return TextReader(bundle, _dtypes(nodes))


def describe_rows(rows: object) -> str:
    """Return a batch's type and size, for a message."""
    if not isinstance(rows, np.ndarray):
        return f"a {type(rows).__name__}, not a numpy array"
    return f"{len(rows)} texts" if rows.dtype == object else f"{rows.dtype} {list(rows.shape)}"


def blank_input(described: contract.InputDescription) -> npt.NDArray[Any] | str:
    """Return one input without content; a free axis gets a sensible size, 32 pixels."""
    if described.name == contract.TEXT:
        return "a text"
    shape = [size if isinstance(size, int) else _BLANK_PIXELS for size in described.shape[1:]]
    return np.zeros(shape, described.dtype)


class Batch(NamedTuple):
    """Inputs of one call.

    Attributes:
        rows: The inputs as the edge model takes them.
        encoded: The bytes of each encoded picture, None for other inputs; None where all are.
    """

    rows: npt.NDArray[Any]
    encoded: list[bytes | None] | None

    def payload(self, rows: npt.NDArray[np.intp], *, as_files: bool) -> npt.NDArray[Any]:
        """Return some rows as they are sent: as the original files where the server takes these."""
        if as_files and self.encoded is not None:
            files = [self.encoded[row] for row in rows.tolist()]
            if None not in files:
                return as_objects(files)
        return self.rows if len(rows) == len(self.rows) else self.rows[rows]


def as_objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    """Return values as an object array [n], whatever they are."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def max_request_bytes(payload: npt.NDArray[Any]) -> int:
    """Return an upper bound of a request's size with this payload, in bytes."""
    if payload.dtype == object:
        contents = sum(len(i.encode() if isinstance(i, str) else i) for i in payload)
    else:
        contents = payload.nbytes
    return contents + _HEADER_BYTES + _ROW_BYTES * len(payload)


def read_single(value: Any, reader: InputReader) -> Batch:
    """Return one input of any kind as a batch, or raise an `InputError`."""
    return _read_each([value], reader)


def read_batch(inputs: Any, reader: InputReader) -> Batch:
    """Return inputs as one batch, or raise an `InputError`; each may be of any kind."""
    if isinstance(inputs, np.ndarray) or is_foreign(inputs):
        return Batch(reader.batch(inputs), None)
    is_one = isinstance(inputs, _SINGLE) or hasattr(inputs, "read") or is_pillow(inputs)
    if is_one or not isinstance(inputs, Iterable):
        raise InputError(
            f"expected a list of {reader.description}, got {kind_of(inputs)}: put a single one "
            "into a list, without its name"
        )
    return _read_each(inputs, reader)


def _read_each(inputs: Iterable[Any], reader: InputReader) -> Batch:
    contents = [reader.value(one) for one in inputs]
    rows = reader.batch([value for value, _ in contents])
    files = [data for _, data in contents]
    return Batch(rows, files if any(file is not None for file in files) else None)


def _check_inputs(
    described: contract.InputDescription, nodes: Sequence[Any], bundle: Bundle
) -> None:
    dtypes = _dtypes(nodes)
    if dtypes != {described.name: described.dtype}:
        raise BundleError(
            f"expected the one input {described.name!r} {described.dtype} in {bundle.graph}, got "
            f"{dtypes}: export the bundle again"
        )
    shape = nodes[0].shape
    if [_size(axis) for axis in shape] != [_size(axis) for axis in described.shape]:
        raise BundleError(
            f"expected the input {described.name!r} {list(described.shape)} in {bundle.graph}, got "
            f"{shape}: export the bundle again"
        )


def _dtypes(nodes: Sequence[Any]) -> dict[str, str | None]:
    """Return the numpy type of each input by its name; None for a type the runtime lacks."""
    return {node.name: _ORT_DTYPES.get(node.type) for node in nodes}


def _size(axis: int | str | None) -> int | None:
    return axis if isinstance(axis, int) else None


def _stack(values: Iterable[Any]) -> Rows:
    rows = [np.asarray(value) for value in values]
    sizes = {row.shape for row in rows}
    if len(sizes) != 1:
        found = "none" if not sizes else ", ".join(str(list(s)) for s in sorted(sizes))
        raise InputError(f"expected inputs of one size in a batch, got {found}: batch by size")
    # A single large picture is not copied.
    return np.stack(rows) if len(rows) > 1 else rows[0][None]
