"""Bounds of a request that are checked before it is parsed, decoded or shown to a model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from cloud_stub.errors import BadRequestError
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

_MOST_FIELDS: Final = 1 << 12
"""Fields of the request itself: parameters, inputs, outputs, raw contents."""
_MOST_NESTED: Final = 1 << 16
"""Fields of its tensors: parameters, axes, typed elements that are not packed."""
_MOST_AXES_BYTES: Final = 10 * tensors.MAX_RANK
_MOST_TYPED_BYTES: Final = 16 << 20
"""Packed numbers, each of which takes up to eight times its size when it is parsed."""
_MOST_INLINE_BYTES: Final = 1 << 16
"""Fields other than raw contents that are read on the event loop."""

_MOST_ASPECT: Final = 64
"""A graph that scales the shorter side to 224 makes 200 megapixels of a picture of 1 x 4096."""

_ID: Final = 3
_INPUT: Final = 5
_NESTED: Final = frozenset({4, _INPUT, 6})
"""The parameters, inputs and outputs of a request."""
_RAW: Final = 7
_SHAPE: Final = 3
_CONTENTS: Final = 5
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10
_Field: TypeAlias = tuple[int, int, int, int]
"""Its number, or 0 for a bare number; begin of its key; begin and end of its content."""


@dataclass(frozen=True, kw_only=True)
class RowBounds:
    """Most rows of a call, and the largest row.

    Attributes:
        max_rows: Most rows of a call.
        max_pixels: Most pixels of a picture.
        max_text_bytes: Most bytes of a text.
    """

    max_rows: int = 1 << 16
    max_pixels: int = 1 << 25
    max_text_bytes: int = 1 << 17

    def check_rows(self, rows: int) -> None:
        """Refuse a call with too many rows; its caller may send them in parts.

        Raises:
            BadRequestError: It has more than `max_rows`.
        """
        if rows > self.max_rows:
            raise BadRequestError(
                f"expected at most {self.max_rows} rows in a call, got {rows}: send them in "
                "several calls"
            )


def check_aspect(height: int, width: int) -> None:
    """Refuse a picture that a model could only scale to something huge.

    Raises:
        BadRequestError: One side is more than 64 times as long as the other.
    """
    if max(height, width) > _MOST_ASPECT * min(height, width):
        raise BadRequestError(
            f"expected pictures with sides of at most 1 to {_MOST_ASPECT}, got {height} x {width}: "
            "cut it into parts"
        )


Parsed: TypeAlias = "tuple[pb.ModelInferRequest, list[memoryview]]"


async def parse_request(data: bytes) -> Parsed:
    """Parse a request with a bounded number of fields; one with large fields in a thread.

    Returns:
        The request, its raw contents left empty, and these contents as they lie in the message:
        protobuf would copy them while all other calls wait.

    Raises:
        WireError: It is none, or has more fields than any request needs.
    """
    fields: list[_Field] = []
    for field in _fields(data, 0, len(data)):
        if len(fields) == _MOST_FIELDS:
            raise _too_many(f"{_MOST_FIELDS} parameters and tensors")
        fields.append(field)
    if sum(end - start for number, _, start, end in fields if number != _RAW) <= _MOST_INLINE_BYTES:
        return _parse(data, fields)
    return await asyncio.to_thread(_parse, data, fields)


def request_id(data: bytes) -> str:
    """Return the id of a request, as far as it can be read; a large one is not parsed for it."""
    found = ""
    with contextlib.suppress(tensors.WireError, UnicodeDecodeError):
        if len(data) <= _MOST_INLINE_BYTES:
            return tensors.parse(pb.ModelInferRequest, data).id
        for number, _, start, end in islice(_fields(data, 0, len(data)), _MOST_FIELDS):
            if number == _ID:
                found = data[start:end].decode()
    return found


def _parse(data: bytes, fields: list[_Field]) -> Parsed:
    _check_nested(data, [field for field in fields if field[0] in _NESTED])
    head = b"".join(data[begin:end] for number, begin, _, end in fields if number != _RAW)
    request = tensors.parse(pb.ModelInferRequest, head)
    view = memoryview(data)
    contents = [view[start:end] for number, _, start, end in fields if number == _RAW]
    request.raw_input_contents.extend([b""] * len(contents))
    return request, contents


def _check_nested(data: bytes, nested: list[_Field]) -> None:
    count = typed = 0
    for outer, _, begin, limit in nested:
        for number, _, start, end in _fields(data, begin, limit):
            count += 1
            if outer == _INPUT and number == _SHAPE and end - start > _MOST_AXES_BYTES:
                raise _too_many(f"{tensors.MAX_RANK} axes")
            if outer == _INPUT and number == _CONTENTS:
                typed += end - start
                count += _count(data, start, end, _MOST_NESTED - count)
            if typed > _MOST_TYPED_BYTES or count > _MOST_NESTED:
                raise _too_many(
                    f"{_MOST_NESTED} parameters and typed elements that are not packed, and "
                    f"{_MOST_TYPED_BYTES} bytes of packed ones"
                )


def _count(data: bytes, start: int, end: int, most: int) -> int:
    """Return the number of fields, or a greater one than `most`."""
    return sum(1 for _ in islice(_fields(data, start, end), max(most, 0) + 1))


def _too_many(limit: str) -> tensors.WireError:
    return tensors.WireError(
        f"expected at most {limit} in a request, got more: send raw contents in fewer tensors"
    )


def _fields(data: bytes, start: int, end: int) -> Iterator[_Field]:
    """Yield where the fields of a serialised message are."""
    while start < end:
        begin = start
        key, start = _varint(data, start, end)
        kind, stop = key & 7, start
        if kind == _LENGTH:
            size, start = _varint(data, start, end)
            stop = start + size
        elif kind == _VARINT:
            _, stop = _varint(data, start, end)
        elif kind in {_FIXED32, _FIXED64}:
            stop = start + (8 if kind == _FIXED64 else 4)
        else:
            raise _garbage(data)
        if stop > end:
            raise _garbage(data)
        # A field of another kind than expected is unknown to protobuf.
        yield key >> 3 if kind == _LENGTH else 0, begin, start, stop
        start = stop


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    value = 0
    for place in range(start, min(end, start + _LONGEST_VARINT)):
        byte = data[place]
        value |= (byte & 0x7F) << 7 * (place - start)
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return value, place + 1
    raise _garbage(data)


def _garbage(data: bytes) -> tensors.WireError:
    return tensors.WireError(
        f"expected a {pb.ModelInferRequest.DESCRIPTOR.full_name}, got {len(data)} other bytes"
    )
