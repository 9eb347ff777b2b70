"""Any ONNX file, served under the names, types and shapes of its own inputs and outputs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from cloud_stub.backends.backend import FREE, Batch, Column, Outputs, Signature, TensorSpec
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, DependencyError, InputError
from edge_runtime.files import one_line
from edge_runtime.onnx_file import read_onnx_file, require_beside
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
_FATAL_ONLY: Final = 4


class GraphBackend:
    """An ONNX file.

    Requests of several callers are answered as one batch if the first axis of every input and
    output has the same name.

    Args:
        path: The file; external data are next to it.
        threads: Threads of one run; 0 leaves the choice to ONNX Runtime.
        allow_loops: Whether its operators may run a subgraph any number of times.

    Raises:
        BundleError: It cannot be opened, has loops or weights in another folder, or has a tensor of
            a type that the protocol lacks.
    """

    workers = 1
    labels: tuple[str, ...] = ()

    def __init__(self, path: Path, threads: int, *, allow_loops: bool = False) -> None:
        require_beside(path, read_onnx_file(path, allow_loops=allow_loops).external)
        self._session = open_session(path, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.signature = Signature(
            takes="tensors",
            inputs=tuple(_spec(node, path) for node in inputs),
            outputs=tuple(_spec(node, path) for node in outputs),
            is_batched=_is_batched([*inputs, *outputs]),
            platform="onnxruntime_onnx",
            is_reentrant=True,
        )
        specs = (*self.signature.inputs, *self.signature.outputs)
        # numpy has no bfloat16: such a graph runs on ONNX Runtime's own values.
        self._has_bf16 = any(spec.datatype == BF16 for spec in specs)

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Run the graph on tensors."""
        feeds = {
            spec.name: _feed(batch.inputs[spec.name], spec.datatype)
            for spec in self.signature.inputs
        }
        names = [spec.name for spec in self.signature.outputs]
        run = self._run_values if self._has_bf16 else self._session.run
        arrays = run(names, feeds)
        yield {
            spec.name: _encode(array) if spec.datatype == BYTES else array
            for spec, array in zip(self.signature.outputs, arrays, strict=True)
        }

    def close(self) -> None:
        """Do nothing: the session ends with the process."""

    def _run_values(self, names: list[str], feeds: Mapping[str, Any]) -> list[Array]:
        from onnxruntime import OrtValue

        values = {}
        for spec in self.signature.inputs:
            array = feeds[spec.name]
            if spec.datatype == BF16:
                values[spec.name] = OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
            else:
                values[spec.name] = OrtValue.ortvalue_from_numpy(array)
        results = self._session.run_with_ort_values(names, values)
        return [
            _bit_patterns(value) if spec.datatype == BF16 else value.numpy()
            for spec, value in zip(self.signature.outputs, results, strict=True)
        ]


def open_session(graph: Path | Bundle, threads: int = 0, *, will_run: bool = True) -> Any:
    """Open a graph on the best device that ONNX Runtime offers.

    Args:
        graph: An ONNX file, or a bundle with one.
        threads: Threads of one run; 0 leaves the choice to ONNX Runtime.
        will_run: Whether the graph will be run; a graph that is only described is not optimised.

    Raises:
        BundleError: It cannot be opened.
        DependencyError: onnxruntime is not installed.
    """
    try:
        import onnxruntime

        from edge_runtime.sessions import load_bundle
    except ImportError:
        raise DependencyError("onnxruntime", "opening an ONNX graph", "cpu") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # The arena keeps what the largest run ever needed, and all other runs wait while it shrinks;
    # the pattern takes a run's memory in one block, which the allocator then does not keep.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    # Warnings about the threshold, an initializer that may be fed, are expected. Errors are raised,
    # and ONNX Runtime would also print them past all logging, with parts of the input.
    options.log_severity_level = _FATAL_ONLY
    providers = onnxruntime.get_available_providers()
    if not will_run:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers = ["CPUExecutionProvider"]
    path = graph if isinstance(graph, Path) else graph.graph
    try:
        if isinstance(graph, Path):
            return onnxruntime.InferenceSession(graph, options, providers=providers)
        return load_bundle(graph, options, providers)
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001 - onnxruntime has a class for every failure
        raise BundleError(f"{path} cannot be opened: {one_line(error)}") from None


def _spec(node: Any, path: Path) -> TensorSpec:
    if node.type not in DATATYPES:
        raise BundleError(
            f"expected tensors of {', '.join(DATATYPES.values())} in {path}, {node.name!r} is a "
            f"{node.type}: the protocol has no such type"
        )
    shape = tuple(axis if isinstance(axis, int) else FREE for axis in node.shape)
    return TensorSpec(node.name, DATATYPES[node.type], shape)


def _is_batched(nodes: list[Any]) -> bool:
    first = {node.shape[0] if node.shape else None for node in nodes}
    return len(first) == 1 and isinstance(next(iter(first)), str)


def _feed(column: Column, datatype: str) -> Any:
    if datatype == BF16:
        # The wire's bfloat16 was widened to float32; it is the upper half of that.
        wide = np.asarray(column, np.float32, order="C").view(np.uint32)
        return np.asarray(wide >> 16, np.uint16)
    if datatype == BYTES:
        return _decode(np.asarray(column))
    # ONNX Runtime reads the memory of an array in its order, and some arrays are views of a message
    # in another order. `ascontiguousarray` would add an axis to a scalar.
    return np.asarray(column, DTYPES[datatype], order="C")


def _decode(array: Array) -> Array:
    """Decode BYTES, which may be anything, for a graph, which takes only UTF-8."""
    try:
        texts = [value.decode() for value in array.flat]
    except UnicodeDecodeError as error:
        raise InputError(f"expected BYTES in UTF-8 for a graph's string tensor: {error}") from None
    decoded: Array = np.array(texts, dtype=object).reshape(array.shape)
    return decoded


def _encode(array: Array) -> Array:
    encoded: Array = np.array([str(value).encode() for value in array.flat], dtype=object)
    return encoded.reshape(array.shape)


def _bit_patterns(value: Any) -> Array:
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    memory = ctypes.string_at(value.data_ptr(), 2 * count) if count else b""
    return np.frombuffer(memory, np.uint16).reshape(shape)
