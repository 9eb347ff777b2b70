"""Turns the caller's inputs into batches that fit a bundle's graph and the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, InputError
from edge_runtime.inputs.pictures import PICTURES, decode_picture, read_input
from edge_runtime.reading import read_bytes

Rows = npt.NDArray[Any]
"""Inputs along the first axis: a tensor, or an object array [n] of texts."""
_ORT_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
}
_BLANK_PIXELS: Final = 32  # of a free axis
_FILE_BYTES: Final = 2**29  # of one picture's file
_HEADER_BYTES: Final = 512
"""Upper bound of a request's names, shapes and parameters."""
_ROW_BYTES: Final = 24
"""Upper bound of one confidence as text, plus the length that precedes an input."""


class InputReader(Protocol):
    """Turns the caller's inputs into batches, and batches into the feeds of a graph."""

    description: str
    """The expected inputs, for error messages."""

    def single(self, value: Any) -> Rows:
        """Return one input as a batch."""

    def batch(self, values: Any) -> Rows:
        """Return several inputs as a batch, or raise an `InputError`."""

    def feeds(self, rows: Rows) -> dict[str, npt.NDArray[Any]]:
        """Return the graph's feeds by input name, or raise an `InputError` for a wrong batch."""

    def unusable(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return the rows to defer whatever the graph decides, bool [n]; None for none."""


class ArrayReader:
    """Reads arrays of the type and size of the graph's input; an `InputReader`."""

    def __init__(self, bundle: Bundle, nodes: Sequence[Any]) -> None:
        described = bundle.metadata.input
        _check_inputs(described, nodes, bundle)
        self._name = described.name
        self._dtype = np.dtype(described.dtype)
        self._is_float = self._dtype.kind == "f"
        self._shape = described.shape
        self.description = f"{self._dtype} {list(self._shape)}"

    def single(self, value: Any) -> Rows:
        """Return one input as a batch of one row."""
        return _as_array(value)[None]

    def batch(self, values: Any) -> Rows:
        """Return inputs of one size as a batch; an array already is one."""
        return values if isinstance(values, np.ndarray) else _stack(values)

    def feeds(self, rows: Rows) -> dict[str, npt.NDArray[Any]]:
        """Return the batch under the input's name."""
        if not self._fits(rows):
            raise InputError(
                f"expected {self.description} with at least one row, got {describe_rows(rows)}: "
                "convert or resize the input"
            )
        return {self._name: rows}

    def unusable(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return which rows hold NaN or infinities: ReLU and max pooling can swallow a NaN."""
        if not self._is_float:
            return None
        bad = np.asarray(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
        return bad if bad.any() else None

    def _fits(self, batch: object) -> bool:
        if not isinstance(batch, np.ndarray) or batch.dtype != self._dtype:
            return False
        shape = batch.shape
        if len(shape) != len(self._shape) or 0 in shape:
            return False
        # Free axes are named by strings.
        return all(w == c for w, c in zip(self._shape, shape, strict=True) if w.__class__ is int)


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
        encoded: The bytes of each picture file; None where the inputs did not come from files.
    """

    rows: npt.NDArray[Any]
    encoded: npt.NDArray[Any] | None

    def payload(self, rows: npt.NDArray[np.intp], *, as_files: bool) -> npt.NDArray[Any]:
        """Return some rows as they are sent: as the original files where the server takes these."""
        whole = self.encoded if as_files and self.encoded is not None else self.rows
        return whole if len(rows) == len(whole) else whole[rows]


def max_request_bytes(payload: npt.NDArray[Any]) -> int:
    """Return an upper bound of a request's size with this payload, in bytes."""
    if payload.dtype == object:
        contents = sum(len(i.encode() if isinstance(i, str) else i) for i in payload)
    else:
        contents = payload.nbytes
    return contents + _HEADER_BYTES + _ROW_BYTES * len(payload)


def read_batch(inputs: Any, reader: InputReader) -> Batch:
    """Return inputs as one batch, or raise an `InputError`; `Path`s among them are read."""
    if not (isinstance(inputs, list | tuple) and any(isinstance(one, Path) for one in inputs)):
        return Batch(reader.batch(inputs), None)
    contents = [_read(one) for one in inputs]
    rows = reader.batch([value for value, _ in contents])
    files = [data for _, data in contents if data is not None]
    if len(files) < len(contents):
        return Batch(rows, None)
    encoded = np.empty(len(files), object)
    encoded[:] = files
    return Batch(rows, encoded)


def _read(value: Any) -> tuple[Any, bytes | None]:
    """Return an input and, where it is a picture's file, the file's bytes."""
    if not isinstance(value, Path):
        return value, None
    if value.suffix.lower() not in PICTURES:
        return read_input(value), None
    try:
        data = read_bytes(value, limit=_FILE_BYTES)
    except OSError as error:
        raise InputError(
            f"expected a readable picture at {value} ({error.strerror or error}): check the path"
        ) from None
    return decode_picture(data, str(value)), data


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


def _as_array(value: Any) -> Rows:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"expected an input as an array, got {error}: convert it first") from None


def _stack(values: Any) -> Rows:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InputError(
            f"expected an array or a list of inputs, got a {type(values).__name__}: put a single "
            "input into a list, without its name"
        )
    rows = [_as_array(value) for value in values]
    sizes = {row.shape for row in rows}
    if len(sizes) != 1:
        found = "none" if not sizes else ", ".join(str(list(s)) for s in sorted(sizes))
        raise InputError(f"expected inputs of one size in a batch, got {found}: batch by size")
    # A single large picture is not copied.
    return np.stack(rows) if len(rows) > 1 else rows[0][None]
