"""Checks of a request before the model sees it; a request that fails one is refused."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from cloud_stub.backends.backend import FREE, Column, Signature, TensorSpec
from cloud_stub.errors import BadRequestError, RefusedRowsError
from cloud_stub.protocol.bounds import RowBounds, check_aspect
from edge_runtime import contract
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

KNOWN_PARAMETERS = frozenset(
    {contract.PARAMETER_CONFIDENCE, contract.PARAMETER_THRESHOLD, contract.PARAMETER_CONTRACT}
)
TEXT_BYTES = 100
"""Memory of an element of BYTES in Python, besides its content."""
NUMBER_BYTES = 8
_MOST_EMPTY = 1 << 20
_RAGGED = "rows"
"""Key of jobs with rows of any sizes."""


@dataclass(frozen=True)
class Inputs:
    """A request's inputs.

    Attributes:
        columns: Columns by name; encoded pictures still as an object array [n] of bytes.
        rows: Number of rows.
        is_encoded: Whether the inputs are pictures that have to be decoded.
    """

    columns: Mapping[str, Column]
    rows: int
    is_encoded: bool = False


def select_outputs(request: pb.ModelInferRequest, signature: Signature) -> tuple[TensorSpec, ...]:
    """Return the outputs to answer with; all of them if the request names none.

    Raises:
        BadRequestError: A name is unknown or given twice.
    """
    if not request.outputs:
        return signature.outputs
    known = {spec.name: spec for spec in signature.outputs}
    names = [output.name for output in request.outputs]
    if any(name not in known for name in names) or len(set(names)) != len(names):
        raise BadRequestError(
            f"expected requested outputs among {', '.join(known)}, each once, "
            f"got {', '.join(names)[:200]}"
        )
    return tuple(known[name] for name in names)


def count_unknown_parameters(request: pb.ModelInferRequest, signature: Signature) -> int:
    """Return the number of parameters without a meaning here; they are ignored."""
    known = KNOWN_PARAMETERS.union(parameter.name for parameter in signature.parameters)
    count = sum(name not in known for name in request.parameters)
    count += sum(len(tensor.parameters) for tensor in request.inputs)
    count += sum(len(output.parameters) for output in request.outputs)
    return count


def read_inputs(
    request: pb.ModelInferRequest,
    contents: Sequence[memoryview],
    signature: Signature,
    bounds: RowBounds,
) -> Inputs:
    """Return a request's inputs, checked against the signature and the bounds.

    Args:
        request: The request.
        contents: Its raw contents.
        signature: What the model takes.
        bounds: Most rows, and the largest row.

    Raises:
        BadRequestError: A tensor, type or shape differs, there is no row, or too many, or a row is
            too large.
        WireError: The contents are malformed.
    """
    _check_names(request, signature)
    if signature.takes == "tensors":
        return _read_tensors(request, contents, signature, bounds)
    return _read_original(request, contents, signature, bounds)


def read_parameters(
    request: pb.ModelInferRequest, signature: Signature, rows: int
) -> dict[str, Column]:
    """Return the columns int64 [rows] of the signature's parameters.

    Raises:
        BadRequestError: A value is not a whole number, or out of range.
    """
    columns: dict[str, Column] = {}
    for known in signature.parameters:
        value: object = known.most
        if known.name in request.parameters:  # a look-up would add it
            parameter = request.parameters[known.name]
            choice = parameter.WhichOneof("parameter_choice")
            value = None if choice is None else getattr(parameter, choice)
        if type(value) is not int or not known.least <= value <= known.most:
            raise BadRequestError(
                f"expected the parameter {known.name!r} as a whole number from {known.least} to "
                f"{known.most}, got {str(value)[:40]!r}"
            )
        columns[known.name] = np.full(rows, value, np.int64)
    return columns


def unpacked_bytes(request: pb.ModelInferRequest, size: int) -> int:
    """Return about how much memory a request's inputs take besides the message.

    Raw numbers take none: they are read in place.

    Args:
        request: The request; it need not be valid.
        size: Its size in bytes: at most a quarter as many are elements.
    """
    is_raw, total = bool(request.raw_input_contents), 0
    for tensor in request.inputs:
        if tensor.datatype == tensors.BYTES:
            shape = tensor.shape[: tensors.MAX_RANK]
            total += TEXT_BYTES * min(abs(prod(shape)), size // 4)
        elif not is_raw:
            total += NUMBER_BYTES * sum(len(some) for _, some in tensor.contents.ListFields())
    return total


def batch_key(inputs: Mapping[str, Column], signature: Signature) -> Hashable | None:
    """Return the key that calls of one batch share; None for a call that must run alone."""
    if not signature.is_batched:
        return None
    # In the signature's order: a request may list its inputs in any.
    columns = [inputs[spec.name] for spec in signature.inputs]
    return tuple(
        column.shape[1:] if isinstance(column, np.ndarray) else _RAGGED for column in columns
    )


def _decode_texts(encoded: tensors.Array, most: int) -> list[str]:
    _check_texts(encoded, most)
    texts = []
    for row, content in enumerate(encoded):
        try:
            texts.append(content.decode())
        except UnicodeDecodeError as error:
            raise BadRequestError(f"expected texts in UTF-8, row {row} is not: {error}") from None
    return texts


def _check_texts(encoded: Iterable[bytes], most: int) -> None:
    too_long = {
        row: f"expected texts of at most {most} bytes, got {len(content)}: shorten it"
        for row, content in enumerate(encoded)
        if len(content) > most
    }
    if too_long:
        raise RefusedRowsError(too_long)


def check_size(images: Iterable[tensors.Array], spec: TensorSpec) -> None:
    """Refuse images [h, w, 3] of a size that the model does not accept.

    Raises:
        BadRequestError: A height or width differs from a fixed one.
    """
    for image in images:
        if not _fits(image.shape, spec.shape[1:]):
            wanted = ", ".join(map(_side, spec.shape[1:3]))
            raise BadRequestError(
                f"expected images of height and width [{wanted}], got {list(image.shape[:2])}"
            )


def _check_names(request: pb.ModelInferRequest, signature: Signature) -> None:
    names = [tensor.name for tensor in request.inputs]
    expected = [spec.name for spec in signature.inputs]
    if names == expected or sorted(names) == sorted(expected):
        return
    came = ", ".join(names)[:200] or "none"
    if len(expected) == 1:
        raise BadRequestError(f"expected one input {expected[0]!r}, got {came}")
    raise BadRequestError(f"expected the inputs {', '.join(expected)}, each once, got {came}")


def _read_original(
    request: pb.ModelInferRequest,
    contents: Sequence[memoryview],
    signature: Signature,
    bounds: RowBounds,
) -> Inputs:
    takes, spec = signature.takes, signature.inputs[0]
    datatype, shape = request.inputs[0].datatype, list(request.inputs[0].shape)
    # Before decoding, so that the message is about the model's input, not the protocol's tensor.
    is_array = datatype == "UINT8" and len(shape) == len(spec.shape) and shape[-1] == spec.shape[-1]
    is_bytes = datatype == tensors.BYTES and len(shape) == 1
    if not (is_bytes or (is_array and takes == contract.IMAGE)) or min(shape) < 1:
        array = "UINT8 [n, height, width, 3] or " if takes == contract.IMAGE else ""
        raise BadRequestError(
            f"expected {takes} as {array}BYTES [n] with n >= 1, got {datatype[:40]} {shape[:8]}"
        )
    tensors.element_count(shape)
    bounds.check_rows(shape[0])
    if not is_bytes and shape[1] * shape[2] > bounds.max_pixels:
        raise BadRequestError(
            f"expected pictures of at most {bounds.max_pixels} pixels, got {shape[1]} x {shape[2]}"
        )
    if not is_bytes:
        check_aspect(*shape[1:3])
    values = tensors.decode_tensors(request.inputs, contents)[spec.name]
    if takes == contract.TEXT:
        return Inputs({spec.name: _decode_texts(values, bounds.max_text_bytes)}, len(values))
    if not is_bytes:
        check_size(values[:1], spec)
    return Inputs({spec.name: values}, len(values), is_encoded=is_bytes)


def _read_tensors(
    request: pb.ModelInferRequest,
    contents: Sequence[memoryview],
    signature: Signature,
    bounds: RowBounds,
) -> Inputs:
    specs = {spec.name: spec for spec in signature.inputs}
    for tensor in request.inputs:
        spec, shape = specs[tensor.name], tuple(tensor.shape)
        if tensor.datatype != spec.datatype or not _fits(shape, spec.shape):
            raise BadRequestError(
                f"expected the input {spec.name!r} as {spec.datatype} "
                f"[{', '.join(map(_side, spec.shape))}], got {tensor.datatype[:40]} "
                f"{list(shape)[:8]}"
            )
        if signature.is_batched and spec.datatype == tensors.BYTES:
            tensors.element_count(shape)
            bounds.check_rows(shape[0])  # before each element becomes an object
    inputs = tensors.decode_tensors(request.inputs, contents)
    most = bounds.max_text_bytes
    for name, array in inputs.items():
        _check_extent(name, array.shape)
        if array.dtype.kind == "O" and len(longest := max(array.flat, key=len, default=b"")) > most:
            raise BadRequestError(
                f"expected texts of at most {most} bytes in {name!r}, got {len(longest)}"
            )
    if not signature.is_batched:
        return Inputs(inputs, 1)
    counts = {len(array) for array in inputs.values()}
    if len(counts) != 1 or 0 in counts:
        raise BadRequestError(
            "expected inputs with the same number of rows, at least 1, got "
            f"{', '.join(map(str, sorted(counts)))}"
        )
    rows = counts.pop()
    bounds.check_rows(rows)
    return Inputs(inputs, rows)


def _check_extent(name: str, shape: tuple[int, ...]) -> None:
    """Refuse shapes like [2^40, 0]: they are cheap to send, but a model may fill their rows."""
    if 0 in shape and prod(side or 1 for side in shape) > _MOST_EMPTY:
        raise BadRequestError(
            f"expected the other sizes of an empty tensor to multiply to at most {_MOST_EMPTY}, "
            f"{name!r} is {list(shape)}"
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want in {FREE, came} for want, came in zip(wanted, shape, strict=True)
    )


def _side(side: int) -> str:
    return "any" if side == FREE else str(side)
