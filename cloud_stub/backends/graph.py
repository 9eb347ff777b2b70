"""Any ONNX file, served under the names, types and shapes of its own inputs and outputs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from cloud_stub.backends.backend import FREE, Batch, Column, Outputs, Signature, TensorSpec
from cloud_stub.backends.classifiers import open_session
from edge_runtime.errors import BundleError, InputError
from edge_runtime.wire.tensors import BF16, BYTES, DTYPES, Array

DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": BF16,
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
"""The protocol's datatype of each type that ONNX Runtime names."""
_BFLOAT16: Final = 16  # onnx.TensorProto.BFLOAT16


class GraphBackend:
    """An ONNX file.

    Requests of several callers are answered as one batch where the first axis of every input and
    output has one and the same name.

    Args:
        path: The file; external data lie beside it.
        threads: Threads of one run; 0 leaves it to ONNX Runtime.

    Raises:
        BundleError: It cannot be opened, or takes or gives what the protocol has no type for.
    """

    workers = 1
    labels: tuple[str, ...] = ()

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_session(path, threads)
        given, got = self._session.get_inputs(), self._session.get_outputs()
        self.signature = Signature(
            takes="tensors",
            inputs=tuple(_spec(node, path) for node in given),
            outputs=tuple(_spec(node, path) for node in got),
            is_batched=_is_batched([*given, *got]),
            platform="onnxruntime_onnx",
        )
        specs = (*self.signature.inputs, *self.signature.outputs)
        # numpy has no bfloat16: such a graph is run on ONNX Runtime's own values.
        self._has_bf16 = any(spec.datatype == BF16 for spec in specs)

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Answer tensors; see `Backend.infer`."""
        feeds = {
            spec.name: _feed(batch.inputs[spec.name], spec.datatype)
            for spec in self.signature.inputs
        }
        names = [spec.name for spec in self.signature.outputs]
        if self._has_bf16:
            found = self._run_values(names, feeds)
        else:
            found = self._session.run(names, feeds)
        yield {
            spec.name: _texts(array) if spec.datatype == BYTES else array
            for spec, array in zip(self.signature.outputs, found, strict=True)
        }

    def close(self) -> None:
        """Nothing is held that the process would not let go of."""

    def _run_values(self, names: list[str], feeds: Mapping[str, Any]) -> list[Array]:
        from onnxruntime import OrtValue

        values = {}
        for spec in self.signature.inputs:
            array = feeds[spec.name]
            if spec.datatype == BF16:
                values[spec.name] = OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
            else:
                values[spec.name] = OrtValue.ortvalue_from_numpy(array)
        found = self._session.run_with_ort_values(names, values)
        return [
            _bit_patterns(value) if spec.datatype == BF16 else value.numpy()
            for spec, value in zip(self.signature.outputs, found, strict=True)
        ]


def _spec(node: Any, path: Path) -> TensorSpec:
    if node.type not in DATATYPES:
        raise BundleError(
            f"expected tensors of {', '.join(DATATYPES.values())} in {path}, {node.name!r} is a "
            f"{node.type}: no protocol type carries it"
        )
    shape = tuple(axis if isinstance(axis, int) else FREE for axis in node.shape)
    return TensorSpec(node.name, DATATYPES[node.type], shape)


def _is_batched(nodes: list[Any]) -> bool:
    first = {node.shape[0] if node.shape else None for node in nodes}
    return len(first) == 1 and isinstance(next(iter(first)), str)


def _feed(column: Column, datatype: str) -> Any:
    if datatype == BF16:
        # The wire's bfloat16 was widened to float32, whose upper half it is.
        wide = np.asarray(column, np.float32, order="C").view(np.uint32)
        return np.asarray(wide >> 16, np.uint16)
    if datatype == BYTES:
        return _unicode(np.asarray(column))
    # ONNX Runtime takes an array as it lies, and some are views of a message in another order.
    # `ascontiguousarray` would give a scalar an axis.
    return np.asarray(column, DTYPES[datatype], order="C")


def _unicode(array: Array) -> Array:
    """Return a graph's strings: they are UTF-8, BYTES of the protocol may be anything."""
    try:
        texts = [value.decode() for value in array.flat]
    except UnicodeDecodeError as error:
        raise InputError(f"expected BYTES in UTF-8 for a graph's string tensor: {error}") from None
    found: Array = np.array(texts, dtype=object).reshape(array.shape)
    return found


def _texts(array: Array) -> Array:
    found: Array = np.array([str(value).encode() for value in array.flat], dtype=object)
    return found.reshape(array.shape)


def _bit_patterns(value: Any) -> Array:
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    memory = ctypes.string_at(value.data_ptr(), 2 * count) if count else b""
    return np.frombuffer(memory, np.uint16).reshape(shape)
