"""What a bundle takes: inputs as one batch, held to the graph, as the graph is fed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, InputError
from edge_runtime.pictures import PICTURES, decode_picture, read_input

# MERGEDOC edge_runtime/forwarding.py: 'A batch as the edge model takes it and, where it came from picture files, as it is forwarded.'

Rows = npt.NDArray[Any]
"""Inputs along the first axis: a tensor, or an object array [n] of texts."""
_ORT_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
}

_HEADER_BYTES: Final = 512
"""Most of a request beside its inputs and confidences: names, shapes, parameters."""
_ROW_BYTES: Final = 24
"""Most of a confidence in words, with a length before the input."""


class Intake(Protocol):
    """Between the caller's inputs and the graph; `wanted` is how a message says what it takes."""

    wanted: str

    def one(self, given: Any) -> Rows:
        """Return a single input as a batch."""

    def rows(self, given: Any) -> Rows:
        """Return several inputs as a batch.

        Raises:
            InputError: They are none that can be batched.
        """

    def feeds(self, rows: Rows) -> dict[str, npt.NDArray[Any]]:
        """Return what the graph is fed, by the names of its inputs.

        Raises:
            InputError: The graph does not take them.
        """

    def unusable(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return which rows have to be deferred whatever the graph says, or None where none has."""


class ArrayIntake:
    """Takes arrays of the type and size that the graph has.

    Args:
        bundle: The bundle.
        inputs: The graph's inputs, as ONNX Runtime describes them.

    Raises:
        BundleError: The graph takes something else than `bundle.json` says.
    """

    def __init__(self, bundle: Bundle, inputs: Sequence[Any]) -> None:
        described = bundle.metadata.input
        _check_inputs(described, inputs, bundle)
        self._name = described.name
        self._dtype = np.dtype(described.dtype)
        self._is_float = self._dtype.kind == "f"
        self._shape = described.shape
        self.wanted = f"{self._dtype} {list(self._shape)}"

    def one(self, given: Any) -> Rows:
        """Return a single input as a batch of one row."""
        return _array(given)[None]

    def rows(self, given: Any) -> Rows:
        """Return inputs of one size as a batch; an array is one already."""
        return given if isinstance(given, np.ndarray) else _stack(given)

    def feeds(self, rows: Rows) -> dict[str, npt.NDArray[Any]]:
        """Return the batch under the input's name."""
        if not self._fits(rows):
            raise InputError(
                f"expected {self.wanted} with at least one row, got {kind_of(rows)}: convert or "
                "resize the input"
            )
        return {self._name: rows}

    def unusable(self, rows: Rows) -> npt.NDArray[np.bool_] | None:
        """Return which rows are not numbers: ReLU and max pooling can swallow a NaN on the way."""
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


def open_intake(bundle: Bundle, inputs: Sequence[Any]) -> Intake:
    """Return the intake of a bundle.

    Args:
        bundle: The bundle.
        inputs: The graph's inputs, as ONNX Runtime describes them.

    Raises:
        BundleError: The graph takes something else than `bundle.json` says, or the tokenizer is
            missing or damaged.
        DependencyError: The bundle takes texts, and `tokenizers` is not installed.
    """
    if bundle.metadata.input.name != contract.TEXT:
        return ArrayIntake(bundle, inputs)
    from edge_runtime.texts import TextIntake

    return TextIntake(bundle, types_of(inputs))


def types_of(inputs: Sequence[Any]) -> dict[str, str | None]:
    """Return the numpy type of each input by its name; None where the runtime knows none."""
    return {node.name: _ORT_DTYPES.get(node.type) for node in inputs}


def kind_of(rows: object) -> str:
    """Return how a message calls a batch."""
    if not isinstance(rows, np.ndarray):
        return f"a {type(rows).__name__}, not a numpy array"
    return f"{len(rows)} texts" if rows.dtype == object else f"{rows.dtype} {list(rows.shape)}"


def _check_inputs(
    described: contract.InputDescription, inputs: Sequence[Any], bundle: Bundle
) -> None:
    found = types_of(inputs)
    if found != {described.name: described.dtype}:
        raise BundleError(
            f"expected the one input {described.name!r} {described.dtype} in {bundle.graph}, got "
            f"{found}: export the bundle again"
        )
    shape = inputs[0].shape
    if [_size(axis) for axis in shape] != [_size(axis) for axis in described.shape]:
        raise BundleError(
            f"expected the input {described.name!r} {list(described.shape)} in {bundle.graph}, got "
            f"{shape}: export the bundle again"
        )


def _size(axis: int | str | None) -> int | None:
    return axis if isinstance(axis, int) else None


def _array(given: Any) -> Rows:
    try:
        return np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"expected an input as an array, got one that is none: {error}") from None


def _stack(given: Any) -> Rows:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InputError(
            f"expected an array or a list of inputs, got a {type(given).__name__}: put a single "
            "input into a list, without its name"
        )
    rows = [_array(one) for one in given]
    sizes = {row.shape for row in rows}
    if len(sizes) != 1:
        came = "none" if not sizes else ", ".join(str(list(s)) for s in sorted(sizes))
        raise InputError(f"expected inputs of one size in a batch, got {came}: batch by size")
    return np.stack(rows)


def blank_input(described: contract.InputDescription) -> npt.NDArray[Any] | str:
    """Return one input without content; a free axis gets a sensible size: 32 pixels."""
    if described.name == contract.TEXT:
        return "a text"
    shape = [size if isinstance(size, int) else 32 for size in described.shape[1:]]
    return np.zeros(shape, described.dtype)


class Batch(NamedTuple):
    """Inputs of one call.

    Attributes:
        rows: As the edge model takes them.
        encoded: The bytes of each picture file; None where the inputs did not come from files.
    """

    rows: npt.NDArray[Any]
    encoded: npt.NDArray[Any] | None

    def forwarded(self, asked: npt.NDArray[np.intp], *, as_files: bool) -> npt.NDArray[Any]:
        """Return what is sent of some rows: files as they came where that is understood."""
        whole = self.encoded if as_files and self.encoded is not None else self.rows
        return whole if len(asked) == len(whole) else whole[asked]


def most_bytes(forwarded: npt.NDArray[Any]) -> int:
    """Return the most that a request of these rows takes."""
    if forwarded.dtype == object:
        contents = sum(len(i.encode() if isinstance(i, str) else i) for i in forwarded)
    else:
        contents = forwarded.nbytes
    return contents + _HEADER_BYTES + _ROW_BYTES * len(forwarded)


def read_batch(given: Any, intake: Intake) -> Batch:
    """Return inputs as one batch; `Path`s among them are read.

    Raises:
        InputError: They are none that can be batched, or a file cannot be read.
        DependencyError: Pillow is missing.
    """
    if not (isinstance(given, list | tuple) and any(isinstance(one, Path) for one in given)):
        return Batch(intake.rows(given), None)
    read = [_read(one) for one in given]
    rows = intake.rows([value for value, _ in read])
    files = [data for _, data in read if data is not None]
    if len(files) < len(read):
        return Batch(rows, None)
    encoded = np.empty(len(files), object)
    encoded[:] = files
    return Batch(rows, encoded)


def _read(given: Any) -> tuple[Any, bytes | None]:
    if not isinstance(given, Path):
        return given, None
    if given.suffix.lower() not in PICTURES:
        return read_input(given), None
    try:
        data = given.read_bytes()
    except OSError as error:
        raise InputError(
            f"expected a readable picture at {given} ({error.strerror}): check the path"
        ) from None
    return decode_picture(data, str(given)), data
