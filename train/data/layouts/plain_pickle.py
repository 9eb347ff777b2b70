"""Reads pickles of plain values and arrays of whole numbers without Python's unpickler.

An unpickler, even one that admits numpy alone, calls numpy with arguments of the file: an array
over another's memory, or one of objects that are numbers. Here nothing of the file is called. Only
the instructions that the published batches of CIFAR use are known (Python 2, protocol 2, and what
Python 3 makes of the same content up to protocol 4), and arrays are made here, of checked sizes.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from train.errors import DataError

_ARRAY: Final = re.compile(r"numpy\.(core|_core)\.multiarray\._reconstruct")
_KNOWN: Final = re.compile(rf"{_ARRAY.pattern}|numpy\.ndarray|numpy\.dtype|_codecs\.encode")
_NUMBERS: Final = re.compile(r"[iu][1248]")
_MARK: Final = object()
_MOST_STEPS: Final = 2_000_000  # of 50,000 pictures with labels and file names: 200,000
_MOST_AXES: Final = 4
_LONGEST_NAME: Final = 100
_LONGEST_INTEGER: Final = 8


class PlainPickleError(ValueError):
    """The file is no pickle of plain values, or it is damaged."""


@dataclasses.dataclass
class _Global:
    name: str


@dataclasses.dataclass
class _Type:
    code: str
    order: str = "="


@dataclasses.dataclass
class _Array:
    values: npt.NDArray[Any] | None = None


def parse(content: bytes) -> dict[str, Any]:
    """Return the dictionary in a pickle: lists, bytes, texts, whole numbers and arrays by name.

    Args:
        content: The whole file.

    Raises:
        DataError: The file asks for something that is not plain.
        PlainPickleError: The file is damaged.
    """
    try:
        value = _Reader(content).run()
    except (struct.error, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise PlainPickleError(f"{type(error).__name__}: {error}") from None
    if not isinstance(value, dict):
        return {}
    return {
        _word(key): entry.values if isinstance(entry, _Array) else entry
        for key, entry in value.items()
    }


class _Reader:
    """A machine with a stack and a memory of values, as `pickletools` describes it."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self._spare = len(content)

    def run(self) -> Any:
        for _ in range(_MOST_STEPS):
            code = self._number("B")
            if code == ord("."):
                return self._stack.pop()
            if code in _SCALARS:
                self._stack.append(self._number(_SCALARS[code]))
            elif code in _TEXTS:
                self._stack.append(self._text(*_TEXTS[code]))
            elif code in _MAKES:
                self._stack.append(_MAKES[code]())
            elif code in _TUPLES:
                count = _TUPLES[code]
                self._stack[-count:] = [tuple(self._stack[-count:])]
            elif code in _ACTIONS:
                _ACTIONS[code](self)
            else:
                raise PlainPickleError(f"instruction {code:#x} is unknown")
        raise PlainPickleError(f"more than {_MOST_STEPS} instructions")

    def _number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self._content, self._place)
        self._place += struct.calcsize(f"<{kind}")
        return int(value)

    def _text(self, kind: str, encoding: str) -> Any:
        length = self._number(kind)
        end = self._place + length
        if length < 0 or end > len(self._content):
            raise PlainPickleError(f"{length} bytes announced, the file is shorter")
        value = self._content[self._place : end]
        self._place = end
        return value.decode(encoding) if encoding else value

    def _line(self) -> str:
        start = self._place
        end = self._content.index(b"\n", start, start + _LONGEST_NAME)
        self._place = end + 1
        return self._content[start:end].decode("ascii")

    def _since_mark(self) -> list[Any]:
        found = []
        while (value := self._stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def _find(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if not _KNOWN.fullmatch(full):
            raise DataError(f"expected plain arrays in a batch, it asks for {full:.80}: refused")
        self._stack.append(_Global(full))

    def long(self) -> None:
        content = self._text("B", "")
        if len(content) > _LONGEST_INTEGER:
            raise PlainPickleError(f"an integer of {len(content)} bytes")
        self._stack.append(int.from_bytes(content, "little", signed=True))

    def skip_frame(self) -> None:
        self._number("Q")

    def skip_protocol(self) -> None:
        self._number("B")

    def put(self, kind: str) -> None:
        self._memory[self._number(kind)] = self._stack[-1]

    def memoize(self) -> None:
        self._memory[len(self._memory)] = self._stack[-1]

    def get(self, kind: str) -> None:
        self._stack.append(self._memory[self._number(kind)])

    def end_tuple(self) -> None:
        self._stack.append(tuple(self._since_mark()))

    def append(self, values: list[Any]) -> None:
        _of(list, self._stack[-1]).extend(values)

    def append_one(self) -> None:
        self.append([self._stack.pop()])

    def append_all(self) -> None:
        self.append(self._since_mark())

    def set_items(self, items: list[Any]) -> None:
        target = _of(dict, self._stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_of((bytes, str), key)] = value

    def set_one(self) -> None:
        self.set_items([self._stack.pop(-2), self._stack.pop()])

    def set_all(self) -> None:
        self.set_items(self._since_mark())

    def find(self) -> None:
        self._find(self._line(), self._line())

    def find_on_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._find(_of(str, module), _of(str, name))

    def reduce(self) -> None:
        """Make an empty array, a type of numbers, or the bytes that Python 2 cannot spell."""
        given, function = _of(tuple, self._stack.pop()), _of(_Global, self._stack.pop()).name
        if _ARRAY.fullmatch(function):
            self._stack.append(_Array())
        elif function == "numpy.dtype":
            self._stack.append(_Type(_numbers(given[0])))
        elif function == "_codecs.encode" and _word(given[1]) == "latin1":
            self._spare -= len(given[0])
            if self._spare < 0:
                raise PlainPickleError("its texts are longer than the file")
            self._stack.append(_of(str, given[0]).encode("latin1"))
        else:
            raise PlainPickleError(f"a call of {function}")

    def build(self) -> None:
        state, target = _of(tuple, self._stack.pop()), self._stack[-1]
        if isinstance(target, _Type):
            target.order = _order(state[1])
            return
        _, shape, kind, is_fortran, content = state
        kind = _of(_Type, kind)
        values = np.frombuffer(_of(bytes, content), np.dtype(f"{kind.order}{kind.code}"))
        if len(_of(tuple, shape)) > _MOST_AXES or any(_of(int, size) < 0 for size in shape):
            raise PlainPickleError("an array of impossible shape")
        if math.prod(shape) != values.size:
            raise PlainPickleError(f"{values.size} numbers for an array of {shape}")
        _of(_Array, target).values = values.reshape(shape, order="F" if is_fortran else "C")


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise PlainPickleError(f"{type(value).__name__} in an unexpected place")
    return value


def _word(value: Any) -> str:
    text: str = value.decode("latin1") if isinstance(value, bytes) else _of(str, value)
    return text


def _numbers(code: Any) -> str:
    if not _NUMBERS.fullmatch(_word(code)):
        raise PlainPickleError(f"an array of {_word(code):.20}")
    return _word(code)


def _order(code: Any) -> str:
    if _word(code) not in {"<", ">", "|", "="}:
        raise PlainPickleError(f"byte order {_word(code):.20}")
    return _word(code)


_SCALARS: Final = {ord("J"): "i", ord("K"): "B", ord("M"): "H"}
_TEXTS: Final = {
    ord("U"): ("B", ""),
    ord("T"): ("i", ""),
    ord("C"): ("B", ""),
    ord("B"): ("I", ""),
    0x8E: ("Q", ""),
    0x8C: ("B", "utf-8"),
    ord("X"): ("I", "utf-8"),
}
_MAKES: Final[dict[int, Callable[[], Any]]] = {
    ord("}"): dict,
    ord("]"): list,
    ord(")"): tuple,
    ord("N"): lambda: None,
    0x88: lambda: True,
    0x89: lambda: False,
    ord("("): lambda: _MARK,
}
_TUPLES: Final = {0x85: 1, 0x86: 2, 0x87: 3}
_ACTIONS: Final[dict[int, Callable[[_Reader], None]]] = {
    0x80: _Reader.skip_protocol,
    0x95: _Reader.skip_frame,
    ord("q"): lambda reader: reader.put("B"),
    ord("r"): lambda reader: reader.put("I"),
    0x8A: _Reader.long,
    0x94: _Reader.memoize,
    ord("h"): lambda reader: reader.get("B"),
    ord("j"): lambda reader: reader.get("I"),
    ord("t"): _Reader.end_tuple,
    ord("a"): _Reader.append_one,
    ord("e"): _Reader.append_all,
    ord("s"): _Reader.set_one,
    ord("u"): _Reader.set_all,
    ord("c"): _Reader.find,
    0x93: _Reader.find_on_stack,
    ord("R"): _Reader.reduce,
    ord("b"): _Reader.build,
}
