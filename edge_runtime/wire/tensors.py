"""Tensors of the Open Inference Protocol: strict conversion of numpy arrays to bytes and back.

Raw contents are row-major, little-endian and unpadded; an element of a BYTES tensor is preceded by
its length as four little-endian bytes. Incoming data are never trusted: every length is checked
before anything is allocated, and every violation raises a `WireError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from edge_runtime.errors import GatekeeperError
from edge_runtime.wire import messages as pb

BYTES: Final = "BYTES"
BF16: Final = "BF16"
MAX_RANK: Final = 32
_MAX_EXTENT: Final = 2**62
_PIECE: Final = 1 << 16

Array: TypeAlias = npt.NDArray[Any]
Tensor: TypeAlias = (
    "pb.ModelInferRequest.InferInputTensor | pb.ModelInferResponse.InferOutputTensor"
)
_M = TypeVar("_M", bound=Message)

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""numpy type of each datatype that numpy has; BF16 and BYTES are handled separately."""
_DATATYPES: Final = {(dtype.kind, dtype.itemsize): name for name, dtype in DTYPES.items()}

_CONTENTS_FIELD: Final = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}

RAW_ONLY: Final = frozenset({"FP16", BF16})
"""Datatypes without a field in typed contents."""


class WireError(GatekeeperError, ValueError):
    """A message or tensor does not follow the protocol."""


def datatype_of(array: Array) -> str:
    """Return the protocol's name of an array's type, or raise a `WireError`."""
    try:
        return _DATATYPES[array.dtype.kind, array.dtype.itemsize]
    except KeyError:
        raise WireError(
            f"expected an array of {', '.join(sorted(DTYPES))}, got numpy {array.dtype}"
        ) from None


def encode_array(array: Array) -> memoryview:
    """Return the raw contents of a numeric array as a flat view, for `append_raw`.

    An array that is C-contiguous and little-endian is not copied. A type that is not in `DTYPES`
    raises a `WireError`.
    """
    wire = np.ascontiguousarray(array, dtype=DTYPES[datatype_of(array)])
    # By way of uint8: a memoryview of an array without elements cannot be cast.
    return wire.reshape(-1).view(np.uint8).data


def decode_array(raw: bytes | memoryview, datatype: str, shape: Sequence[int]) -> Array:
    """Return the array of raw contents, as a read-only view where numpy has the type.

    Args:
        raw: The contents.
        datatype: Any datatype but BYTES; BF16 becomes float32.
        shape: Size of each axis.

    Raises:
        WireError: Unknown datatype, impossible shape, a length that does not match them, or a BOOL
            that is neither 0 nor 1.
    """
    dtype = np.dtype("<u2") if datatype == BF16 else DTYPES.get(datatype)
    if dtype is None:
        raise WireError(
            f"expected a datatype of {', '.join(DTYPES)} or BF16, got {datatype[:40]!r}"
        )
    count = element_count(shape)
    if len(raw) != count * dtype.itemsize:
        raise WireError(
            f"expected {count * dtype.itemsize} bytes for {datatype} {list(shape)}, got {len(raw)}"
        )
    array: Array = np.ndarray(tuple(shape), dtype, raw)
    if datatype == "BOOL" and array.size and (top := array.view(np.uint8).max()) > 1:
        # The behaviour of numpy and C++ with such a truth value is undefined.
        raise WireError(f"expected BOOL as bytes of 0 or 1, got {top}")
    return _widen(array) if datatype == BF16 else array


def _widen(halves: Array) -> Array:
    """Return float32 from bfloat16 bit patterns, which are its upper half."""
    # Shifting an array without axes gives a number, which numpy 1 does not view as another type.
    return np.asarray(halves.astype(np.uint32) << 16, np.uint32).view(np.float32)


def encode_bytes(values: Iterable[bytes | str]) -> bytes:
    """Return the raw contents of a BYTES tensor; text is written as UTF-8."""
    raw = bytearray()  # joining a list of 100,000 parts would keep all other threads waiting
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        raw += len(data).to_bytes(4, "little")
        raw += data
    return bytes(raw)


def decode_bytes(raw: bytes, count: int) -> list[bytes]:
    """Return the `count` elements of a BYTES tensor, or raise a `WireError` if they do not fit."""
    if count * 4 > len(raw):
        raise WireError(f"expected {count} BYTES elements, got only {len(raw)} bytes")
    values: list[bytes] = []
    position = 0
    for index in range(count):
        start = position + 4
        if start > len(raw):
            raise WireError(f"expected {count} BYTES elements, got {index}")
        position = start + int.from_bytes(raw[start - 4 : start], "little")
        if position > len(raw):
            raise WireError(
                f"BYTES element {index} claims {position - start} bytes, "
                f"{len(raw) - start} are left"
            )
        values.append(raw[start:position])
    if position != len(raw):
        raise WireError(f"{len(raw) - position} bytes follow the last of {count} BYTES elements")
    return values


def element_count(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape, or raise a `WireError` for an impossible one."""
    if len(shape) > MAX_RANK:
        raise WireError(f"expected at most {MAX_RANK} axes, got {len(shape)}")
    count = extent = 1
    for size in shape:
        if size < 0:
            raise WireError(f"expected sizes of 0 or more, got shape {list(shape)}")
        count *= size
        # An axis of 0 must not hide the others: numpy refuses such shapes with its own error.
        extent *= size or 1
    if extent * 8 > _MAX_EXTENT:
        raise WireError(f"shape {list(shape)} is too large")
    return count


def decode_tensors(
    tensors: Sequence[Tensor], raw_contents: Sequence[bytes | memoryview]
) -> dict[str, Array]:
    """Return the arrays of a request's inputs or a response's outputs by name.

    Some peers answer in raw form only to raw requests, and some never do: both forms are read. A
    BYTES tensor becomes an object array of `bytes`.

    Args:
        tensors: Names, datatypes, shapes and, in typed form, contents.
        raw_contents: One entry per tensor; empty when the contents are typed.

    Raises:
        WireError: Both forms or neither came, a name came twice, or a tensor is malformed.
    """
    if raw_contents and len(raw_contents) != len(tensors):
        raise WireError(
            f"expected raw contents for each of {len(tensors)} tensors, got {len(raw_contents)}"
        )
    arrays: dict[str, Array] = {}
    contents = iter(raw_contents)
    for tensor in tensors:
        name = tensor.name
        if name in arrays:
            raise WireError(f"tensor {name[:80]!r} came twice")
        try:
            arrays[name] = _decode(tensor, next(contents, None))
        except WireError as error:
            raise WireError(f"tensor {name[:80]!r}: {error}") from None
    return arrays


def is_typed(tensor: Tensor) -> bool:
    """Return whether typed contents came; MLServer adds an empty message of them to raw ones."""
    return tensor.HasField("contents") and tensor.contents.ByteSize() > 0


def _decode(tensor: Tensor, raw: bytes | memoryview | None) -> Array:
    if raw is None:
        return _decode_typed(tensor)
    if is_typed(tensor):
        raise WireError("expected raw or typed contents, got both: send one")
    # Each access to a message's field creates a new object.
    datatype, shape = tensor.datatype, tuple(tensor.shape)
    if datatype != BYTES:
        return decode_array(raw, datatype, shape)
    return _object_array(decode_bytes(bytes(raw), element_count(shape)), shape)


def _decode_typed(tensor: Tensor) -> Array:
    count = element_count(tensor.shape)
    field = _CONTENTS_FIELD.get(tensor.datatype)
    if field is None:
        raise WireError(
            f"expected a datatype of {', '.join(_CONTENTS_FIELD)} in typed contents, "
            f"got {tensor.datatype[:40]!r}"
        )
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled not in ([], [field]):
        raise WireError(f"expected {tensor.datatype} in {field}, got {', '.join(filled)}")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise WireError(f"expected {count} elements, got {len(values)}")
    if tensor.datatype == BYTES:
        return _object_array(list(values), tensor.shape)
    return _narrow(values, DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))


def _narrow(values: Any, dtype: np.dtype[Any]) -> Array:
    """Return the values of a wider field as a narrower type, and refuse those that would wrap."""
    if dtype.kind not in "iu" or dtype.itemsize == 8:  # noqa: PLR2004 - the field is as wide
        return _read_numbers(values, dtype)
    wide = _read_numbers(values, np.dtype(np.int64))
    array = wide.astype(dtype)
    if not np.array_equal(array, wide):
        raise WireError(f"expected values of {dtype.name}, got {wide.min()} to {wide.max()}")
    return array


def _read_numbers(values: Any, dtype: np.dtype[Any]) -> Array:
    array: Array = np.empty(len(values), dtype)
    # In pieces: other threads are blocked while numpy reads one.
    for start in range(0, len(values), _PIECE):
        array[start : start + _PIECE] = values[start : start + _PIECE]
    return array


def _object_array(values: list[bytes], shape: Sequence[int]) -> Array:
    array: Array = np.array(values, dtype=object)  # numpy takes bytes as one element
    return array if array.shape == shape else array.reshape(tuple(shape))


def fill_typed(contents: pb.InferTensorContents, datatype: str, array: Array) -> None:
    """Write an array into typed contents; its datatype must not be one of `RAW_ONLY`."""
    field, flat = getattr(contents, _CONTENTS_FIELD[datatype]), array.reshape(-1)
    for start in range(0, len(flat), _PIECE):
        field.extend(flat[start : start + _PIECE].tolist())


def append_raw(header: Message, contents: Iterable[bytes | memoryview]) -> bytes:
    """Serialise a request or response with raw contents, copying each of them once.

    Setting the field and serialising would copy them three times. Protobuf allows the fields of a
    message in any number of pieces, so the contents are appended to the serialised rest.

    Args:
        header: A `ModelInferRequest` or `ModelInferResponse` without raw contents.
        contents: One flat buffer per tensor, in the tensors' order.
    """
    key = _RAW_KEYS[type(header)]
    parts: list[bytes | memoryview] = [header.SerializeToString()]
    for content in contents:
        parts += (key + _varint(len(content)), content)
    return b"".join(parts)


def wrap(kind: type[Message], field: str, content: bytes) -> bytes:
    """Return a serialised message with a single field, itself a serialised message."""
    return b"".join((_key(kind, field), _varint(len(content)), content))


def _key(kind: type[Message], field: str) -> bytes:
    """Return the key of a length-delimited field (wire type 2); numbers under 16 take one byte."""
    return bytes([kind.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


_RAW_KEYS: Final[dict[type[Message], bytes]] = {
    pb.ModelInferRequest: _key(pb.ModelInferRequest, "raw_input_contents"),
    pb.ModelInferResponse: _key(pb.ModelInferResponse, "raw_output_contents"),
}


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a group
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def parse(kind: type[_M], data: bytes) -> _M:
    """Parse a message, or raise a `WireError` for bytes of another kind."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise WireError(
            f"expected a {kind.DESCRIPTOR.full_name}, got {len(data)} other bytes"
        ) from None
