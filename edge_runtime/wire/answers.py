"""Reads an engine's outputs strictly, as class names of the edge model or as texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.errors import CloudProtocolError, SettingError
from edge_runtime.names import class_name
from edge_runtime.wire import messages as pb
from edge_runtime.wire.tensors import BYTES, Array, WireError, decode_bytes, is_typed

if TYPE_CHECKING:
    from typing_extensions import Self

_TYPES: Final = {
    contract.PREDICTION: "INT64",
    contract.LABEL: BYTES,
    contract.CONFIDENCE: "FP32",
}
_MOST_CLASSES: Final = 2**31
# A message of 64 MiB that is made of empty parts takes gigabytes once it is parsed.
_HEADER_BYTES: Final = 1 << 16
_ROW_BYTES: Final = 64
_TEXT_BYTES: Final = 1 << 20
_INT64, _FLOAT32, _OBJECT = np.dtype(np.int64), np.dtype(np.float32), np.dtype(object)


@dataclass(frozen=True, kw_only=True)
class AnswerReader:
    """Reads the outputs of an engine that classifies.

    Attributes:
        output: The output of a foreign engine that holds the answer; None for the gate contract.
        reduce: `argmax` if that output holds scores [n, classes].
        labels: Class names in the engine's order.
        index: The edge model's class index by name.
    """

    output: str | None
    reduce: str | None
    labels: tuple[str, ...]
    index: dict[str, int]

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels) or set(self.labels) != set(self.index):
            odd = sorted(set(self.labels) ^ set(self.index)) or ["(one occurs twice)"]
            raise SettingError(
                "expected cloud_labels to hold the edge model's labels, each once, in the engine's "
                f"order; they differ in {', '.join(odd[:5])}"
            )
        if self.reduce not in {None, "argmax"}:
            raise SettingError(f"expected cloud_reduce 'argmax' or None, got {self.reduce!r}")
        if self.reduce and not self.output:
            raise SettingError("cloud_reduce needs cloud_output: name the output to reduce")

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        *,
        output: str | None,
        reduce: str | None,
        foreign_labels: Sequence[str] | None,
    ) -> Self:
        """Build a reader for an edge model's labels, or raise a `SettingError`."""
        index = {class_name(name): position for position, name in enumerate(labels)}
        if len(index) < len(labels):
            raise SettingError(
                "expected each label of the edge model once, one occurs twice: rename one"
            )
        order = tuple(map(class_name, labels if foreign_labels is None else foreign_labels))
        return cls(output=output, reduce=reduce, labels=order, index=index)

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the edge model's class index of each name, int64 [n]."""
        return np.fromiter((self.index[name] for name in names), np.int64, len(names))

    def most_bytes(self, rows: int) -> int | None:
        """Return the most bytes of an answer; None where it may hold other outputs, of any size."""
        if self.output is not None:
            return None
        longest = max((len(name.encode()) for name in self.labels), default=0)
        return _HEADER_BYTES + rows * (_ROW_BYTES + longest)

    def read_raw(
        self, response: pb.ModelInferResponse, rows: int
    ) -> tuple[list[str], npt.NDArray[np.float32]] | None:
        """Read the contract's outputs directly from a response in the usual form.

        Takes half the time of building arrays of all outputs first, with cold caches after a wait.

        Returns:
            Label names and confidences of n rows; None where the response differs in any way, for
            `read` to accept or refuse it.
        """
        contents = _contract_contents(response, rows) if self.output is None else None
        if contents is None:
            return None
        try:
            labels = decode_bytes(contents[contract.LABEL], rows)
        except WireError:
            return None
        _require_indices(np.frombuffer(contents[contract.PREDICTION], "<i8"))
        confidence = np.frombuffer(contents[contract.CONFIDENCE], "<f4")
        return self._decode(labels), _check_confidence(confidence)

    def read(
        self, outputs: dict[str, Array], rows: int
    ) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Return label names and confidences of n rows, or raise a `CloudProtocolError`."""
        if self.output is None:
            return self._read_contract(outputs, rows)
        answers = _require(outputs, self.output)
        names = self._reduce(answers, rows) if self.reduce else self._name(answers, rows)
        if contract.CONFIDENCE not in outputs:
            return names, np.full(rows, np.nan, np.float32)
        return names, confidence_of(outputs, rows)

    def _read_contract(
        self, outputs: dict[str, Array], rows: int
    ) -> tuple[list[str], npt.NDArray[np.float32]]:
        unknown = outputs.keys() - _TYPES.keys()
        if unknown:
            raise CloudProtocolError(
                f"unknown outputs {', '.join(sorted(unknown))[:200]}: a foreign engine needs "
                "cloud_output= to name the one that answers"
            )
        _require_indices(_check(outputs, contract.PREDICTION, _INT64, rows))
        label = _check(outputs, contract.LABEL, _OBJECT, rows)
        return self._decode(label), confidence_of(outputs, rows)

    def _reduce(self, scores: Array, rows: int) -> list[str]:
        expected = (rows, len(self.labels))
        if scores.dtype.kind != "f" or scores.shape != expected:
            raise CloudProtocolError(
                f"expected scores as floats {list(expected)} in {self.output}, "
                f"got {scores.dtype} {list(scores.shape)}: do cloud_labels match this model?"
            )
        if np.isnan(scores).any():
            raise CloudProtocolError(f"{self.output} holds NaN: the engine's model failed")
        return [self.labels[position] for position in np.argmax(scores, axis=1)]

    def _name(self, classes: Array, rows: int) -> list[str]:
        flat = classes.reshape(-1)
        if not _is_one_per_row(classes, rows) or classes.dtype.kind not in "iuO":
            raise CloudProtocolError(
                f"expected class indices or names [{rows}] in {self.output}, got {classes.dtype} "
                f"{list(classes.shape)}: scores need cloud_reduce='argmax'"
            )
        if classes.dtype.kind == "O":
            return self._decode(flat)
        self._check_classes(flat)
        return [self.labels[position] for position in flat]

    def _check_classes(self, classes: Array) -> None:
        values = classes.tolist()  # on few rows ten times as fast as numpy
        if values and not (min(values) >= 0 and max(values) < len(self.labels)):
            raise CloudProtocolError(
                f"expected class indices under {len(self.labels)} in {self.output}, got "
                f"{min(values)} to {max(values)}"
            )

    def _decode(self, values: Iterable[bytes]) -> list[str]:
        names = [class_name(value.decode("utf-8", "backslashreplace")) for value in values]
        for name in names:
            if name not in self.index:
                raise CloudProtocolError(
                    f"label {name[:80]!r} is none of the edge model's {len(self.index)}: "
                    "both models must have the same classes"
                )
        return names


def _require_indices(classes: Array) -> None:
    # They count the server's classes, which may be more than the edge's: the label decides.
    values = classes.tolist()
    if values and not (min(values) >= 0 and max(values) < _MOST_CLASSES):
        raise CloudProtocolError(
            f"expected class indices from 0 in {contract.PREDICTION}, got {min(values)} to "
            f"{max(values)}"
        )


def _contract_contents(response: pb.ModelInferResponse, rows: int) -> dict[str, bytes] | None:
    """Return the raw contents by output; None unless they follow the contract exactly."""
    outputs, contents = response.outputs, response.raw_output_contents
    if len(outputs) != len(_TYPES) or len(contents) != len(_TYPES):
        return None
    by_name: dict[str, bytes] = {}
    for tensor, raw in zip(outputs, contents, strict=True):
        name = tensor.name
        is_other = tensor.datatype != _TYPES.get(name) or tensor.shape != [rows]
        if is_other or is_typed(tensor):
            return None
        by_name[name] = raw
    if len(by_name) != len(_TYPES):
        return None  # one occurs twice
    sizes = len(by_name[contract.PREDICTION]), len(by_name[contract.CONFIDENCE])
    return by_name if sizes == (8 * rows, 4 * rows) else None


def _require(outputs: dict[str, Array], name: str) -> Array:
    if name not in outputs:
        present = ", ".join(outputs) or "none"
        raise CloudProtocolError(f"expected an output {name!r}, got {present[:200]}")
    return outputs[name]


def _check(outputs: dict[str, Array], name: str, dtype: np.dtype[Any], rows: int) -> Array:
    array = _require(outputs, name)
    if array.dtype != dtype or not _is_one_per_row(array, rows):
        raise CloudProtocolError(
            f"expected output {name} as {dtype} [{rows}], got {array.dtype} {list(array.shape)}"
        )
    return array.reshape(-1)


def _is_one_per_row(array: Array, rows: int) -> bool:
    # MLServer's codecs turn the first shape into the second.
    return array.shape in {(rows,), (rows, 1)}


def confidence_of(outputs: dict[str, Array], rows: int) -> npt.NDArray[np.float32]:
    """Return the contract's confidences of n rows, or raise a `CloudProtocolError`."""
    return _check_confidence(_check(outputs, contract.CONFIDENCE, _FLOAT32, rows))


def _check_confidence(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # NaN stands for none, or for one bad row among good ones.
    if any(map(math.isinf, values.tolist())):
        raise CloudProtocolError(f"expected finite values in {contract.CONFIDENCE}, got infinity")
    return values


class TextAnswerReader:
    """Reads the texts BYTES [n] of an engine that generates, in place of an `AnswerReader`."""

    def __init__(self, output: str | None) -> None:
        self.output = output or contract.TEXT
        self._is_foreign = output is not None

    def numbers(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the value for no class, int64 [n]."""
        return np.full(len(names), contract.NO_CLASS, np.int64)

    def most_bytes(self, rows: int) -> int | None:
        """Return the most bytes of an answer; None for a foreign engine's."""
        return None if self._is_foreign else _HEADER_BYTES + rows * _TEXT_BYTES

    def read_raw(self, _: pb.ModelInferResponse, __: int) -> None:
        """Leave every response to `read`."""
        return

    def read(
        self, outputs: dict[str, Array], rows: int
    ) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Return texts and confidences of n rows, or raise a `CloudProtocolError`."""
        values = outputs.get(self.output)
        if values is None or values.dtype != object or not _is_one_per_row(values, rows):
            present = ", ".join(f"{n} {a.dtype} {list(a.shape)}" for n, a in outputs.items())
            raise CloudProtocolError(
                f"expected texts [{rows}] in the output {self.output!r}, "
                f"got {present[:200] or 'none'}"
            )
        texts = [value.decode("utf-8", "backslashreplace") for value in values.reshape(-1)]
        if contract.CONFIDENCE not in outputs:
            return texts, np.full(rows, np.nan, np.float32)
        return texts, confidence_of(outputs, rows)
