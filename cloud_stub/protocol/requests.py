"""What a request must be before the model sees it; all else is refused in words."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from cloud_stub.backends.backend import FREE, Column, Signature, TensorSpec
from cloud_stub.errors import BadRequestError
from edge_runtime import contract
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

KNOWN_PARAMETERS = frozenset(
    {contract.PARAMETER_CONFIDENCE, contract.PARAMETER_THRESHOLD, contract.PARAMETER_CONTRACT}
)
TEXT_BYTES = 100
"""Memory of an element of BYTES, as Python holds it, beside its content."""
NUMBER_BYTES = 8
_MOST_EMPTY = 1 << 20
_RAGGED = "rows"
"""Key of jobs whose rows need not have one size."""


@dataclass(frozen=True)
class Given:
    """A request's inputs.

    Attributes:
        inputs: By name; encoded pictures still as object array [n] of bytes.
        rows: How many.
        is_encoded: Whether they are pictures to be decoded.
    """

    inputs: Mapping[str, Column]
    rows: int
    is_encoded: bool = False


def requested_outputs(
    request: pb.ModelInferRequest, signature: Signature
) -> tuple[TensorSpec, ...]:
    """Return the outputs to answer with; all when the request names none.

    Raises:
        BadRequestError: A name is unknown or came twice.
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
    """Return how many parameters have no meaning here; they are ignored."""
    own = [parameter.name for parameter in signature.parameters]
    count = 0
    for name in request.parameters:
        count += name not in KNOWN_PARAMETERS and name not in own
    for given in request.inputs:
        count += len(given.parameters)
    for asked in request.outputs:
        count += len(asked.parameters)
    return count


def read_inputs(request: pb.ModelInferRequest, signature: Signature) -> Given:
    """Return a request's inputs, held to the signature.

    Raises:
        BadRequestError: Another tensor, type or shape came, or no row.
        WireError: The contents are malformed.
    """
    _check_names(request, signature)
    if signature.takes == "tensors":
        return _read_tensors(request, signature)
    return _read_original(request, signature)


def read_parameters(
    request: pb.ModelInferRequest, signature: Signature, rows: int
) -> dict[str, Column]:
    """Return the columns int64 [rows] of what a request sets.

    Raises:
        BadRequestError: It is no whole number, or out of range.
    """
    columns: dict[str, Column] = {}
    for known in signature.parameters:
        value: object = known.most
        if known.name in request.parameters:  # which a look-up would put there
            given = request.parameters[known.name]
            chosen = given.WhichOneof("parameter_choice")
            value = None if chosen is None else getattr(given, chosen)
        if type(value) is not int or not known.least <= value <= known.most:
            raise BadRequestError(
                f"expected the parameter {known.name!r} as a whole number from {known.least} to "
                f"{known.most}, got {str(value)[:40]!r}"
            )
        columns[known.name] = np.full(rows, value, np.int64)
    return columns


def unpacked_bytes(request: pb.ModelInferRequest, size: int) -> int:
    """Return about how much memory a request's inputs take beside the message.

    Raw numbers take none: they are used as they lie.

    Args:
        request: Not yet known to be in order.
        size: Its bytes: no more than a quarter of them are elements.
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
    """Return what calls must have in common to be answered as one batch; None: they cannot be."""
    if not signature.is_batched:
        return None
    # In the signature's order: a request may list its inputs in any.
    columns = [inputs[spec.name] for spec in signature.inputs]
    return tuple(
        column.shape[1:] if isinstance(column, np.ndarray) else _RAGGED for column in columns
    )


def decode_texts(encoded: Iterable[bytes]) -> list[str]:
    """Decode texts.

    Raises:
        BadRequestError: One is not UTF-8.
    """
    texts = []
    for row, content in enumerate(encoded):
        try:
            texts.append(content.decode())
        except UnicodeDecodeError as error:
            raise BadRequestError(f"expected texts in UTF-8, row {row} is none: {error}") from None
    return texts


def check_size(images: Iterable[tensors.Array], spec: TensorSpec) -> None:
    """Refuse images [h, w, 3] of a size that the model does not take.

    Raises:
        BadRequestError: A height or width differs from a fixed one.
    """
    for image in images:
        if not _fits(image.shape, spec.shape[1:]):
            wanted = ", ".join(map(_words, spec.shape[1:3]))
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


def _read_original(request: pb.ModelInferRequest, signature: Signature) -> Given:
    takes, spec = signature.takes, signature.inputs[0]
    datatype, shape = request.inputs[0].datatype, list(request.inputs[0].shape)
    # Before decoding: the message then speaks of the model's input, not of the protocol's.
    is_array = datatype == "UINT8" and len(shape) == len(spec.shape) and shape[-1] == spec.shape[-1]
    is_bytes = datatype == tensors.BYTES and len(shape) == 1
    if not (is_bytes or (is_array and takes == contract.IMAGE)) or min(shape) < 1:
        array = "UINT8 [n, height, width, 3] or " if takes == contract.IMAGE else ""
        raise BadRequestError(
            f"expected {takes} as {array}BYTES [n] with n >= 1, got {datatype[:40]} {shape[:8]}"
        )
    found = tensors.decode_tensors(request.inputs, request.raw_input_contents)[spec.name]
    if takes == contract.TEXT:
        return Given({spec.name: decode_texts(found)}, len(found))
    if is_bytes:
        return Given({spec.name: found}, len(found), is_encoded=True)
    check_size(found[:1], spec)
    return Given({spec.name: found}, len(found))


def _read_tensors(request: pb.ModelInferRequest, signature: Signature) -> Given:
    specs = {spec.name: spec for spec in signature.inputs}
    for tensor in request.inputs:
        spec, shape = specs[tensor.name], tuple(tensor.shape)
        if tensor.datatype != spec.datatype or not _fits(shape, spec.shape):
            raise BadRequestError(
                f"expected the input {spec.name!r} as {spec.datatype} "
                f"[{', '.join(map(_words, spec.shape))}], got {tensor.datatype[:40]} "
                f"{list(shape)[:8]}"
            )
    inputs = tensors.decode_tensors(request.inputs, request.raw_input_contents)
    for name, array in inputs.items():
        _check_extent(name, array.shape)
    if not signature.is_batched:
        return Given(inputs, 1)
    counts = {len(array) for array in inputs.values()}
    if len(counts) != 1 or 0 in counts:
        raise BadRequestError(
            "expected inputs of one number of rows, at least 1, got "
            f"{', '.join(map(str, sorted(counts)))}"
        )
    return Given(inputs, counts.pop())


def _check_extent(name: str, shape: tuple[int, ...]) -> None:
    """Refuse shapes like [2^40, 0]: they cost nothing to send, but a model may fill their rows."""
    if 0 in shape and prod(side or 1 for side in shape) > _MOST_EMPTY:
        raise BadRequestError(
            f"expected the sizes of an empty tensor to come to at most {_MOST_EMPTY} without the "
            f"0, {name!r} is {list(shape)}"
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        want in {FREE, came} for want, came in zip(wanted, shape, strict=True)
    )


def _words(side: int) -> str:
    return "any" if side == FREE else str(side)
