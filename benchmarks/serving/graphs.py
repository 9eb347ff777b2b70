"""ONNX graphs for servers under load: their cost is known, their answers do not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serving.load import check_answer, serialise
from benchmarks.timing import time_each

INPUT: Final = "input"
OUTPUT: Final = "output"
MLP_OUTPUT: Final = "logits"
FEATURES: Final = 64
CLASSES: Final = 10
_HIDDEN: Final = 128
_WIDTH: Final = 256
_OPSET: Final = 18
_IR_VERSION: Final = 10
_PROBE_TURNS: Final = 1000
_PROBES: Final = 15
_TRIES: Final = 5
_TOLERANCE: Final = 0.05


def write_instant(path: Path) -> Path:
    """Write a graph that cuts one element out of UINT8 [batch, height, width, 3]."""
    bounds = {"first": [0, 0, 0], "last": [1, 1, 1], "axes": [1, 2, 3]}
    weights = [
        numpy_helper.from_array(np.array(values, np.int64), name) for name, values in bounds.items()
    ]
    nodes = [helper.make_node("Slice", [INPUT, *bounds], [OUTPUT])]
    kind = TensorProto.UINT8
    return _write(path, nodes, weights, kind, ["height", "width", 3], (OUTPUT, [1, 1, 1]))


def write_mlp(path: Path, *, seed: int = 0) -> Path:
    """Write a two-layer perceptron: FP32 [batch, 64] -> 128 -> logits [batch, 10].

    It costs a server so little that what is timed is the server.
    """
    draws = np.random.default_rng(seed)
    sizes = {
        "w1": (FEATURES, _HIDDEN),
        "b1": (_HIDDEN,),
        "w2": (_HIDDEN, CLASSES),
        "b2": (CLASSES,),
    }
    weights = [_constant(name, draws.normal(0, 0.1, shape)) for name, shape in sizes.items()]
    nodes = [
        helper.make_node("Gemm", [INPUT, "w1", "b1"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], [MLP_OUTPUT]),
    ]
    output = (MLP_OUTPUT, [CLASSES])
    return _write(path, nodes, weights, TensorProto.FLOAT, [FEATURES], output)


def write_slow(path: Path, seconds: float, seed: int) -> Path:
    """Write a graph of FP32 [batch, 256] whose run takes this long here, for one row on one thread.

    Args:
        path: The file to write.
        seconds: Time of a run.
        seed: Seed of its weights.
    """
    turns = _PROBE_TURNS
    for _ in range(_TRIES):  # a machine that was busy with something else gets another try
        took_s = run_time_s(_write_turns(path, turns, seed))
        if abs(took_s / seconds - 1) < _TOLERANCE:
            break
        turns = max(1, round(turns * seconds / took_s))
    else:
        _write_turns(path, turns, seed)
    return path


def slow_row(seed: int) -> Any:
    """Return an input of the slow graph, float32 [1, 256]."""
    return np.random.default_rng(seed).normal(size=(1, _WIDTH)).astype(np.float32)


def run_time_s(path: Path) -> float:
    """Return the median time of a run of the slow graph, in seconds."""
    run = _open_run(path, np.zeros((1, _WIDTH), np.float32))
    run()
    return float(np.median(time_each(run, _PROBES))) / 1e9


def run_graph(path: Path, rows: Any) -> Any:
    """Return a graph's first output, for comparison with a server's answer."""
    return _open_run(path, rows)()[0]


def graph_request(graph: Path, rows: Any, *addresses: str) -> bytes:
    """Return a request of a graph with one input, serialised.

    Args:
        graph: The graph; its file has the model's name.
        rows: Its input.
        addresses: Servers of the graph that are checked to give its answer.

    Raises:
        BenchmarkError: A server's answer differs from the graph's.
    """
    request = serialise(graph.stem, INPUT, rows)
    expected = run_graph(graph, rows)
    for address in addresses:
        check_answer(address, request, expected)
    return request


def _open_run(path: Path, rows: Any) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {INPUT: rows})


def _write_turns(path: Path, turns: int, seed: int) -> Path:
    """Write a loop: a constant number of turns of h = tanh(h W), whose values stay in range."""
    weight = np.random.default_rng(seed).normal(size=(_WIDTH, _WIDTH)) / np.sqrt(_WIDTH) * 2
    free: list[str | int | None] = ["batch", _WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["m"]),
            helper.make_node("Tanh", ["m"], ["next"]),
            helper.make_node("Identity", ["continue"], ["continue_next"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("continue", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, free),
        ],
        [
            helper.make_tensor_value_info("continue_next", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, free),
        ],
    )
    weights = [
        _constant("w", weight),
        numpy_helper.from_array(np.array(turns, np.int64), "turns"),
        numpy_helper.from_array(np.array(True), "continue_first"),
    ]
    nodes = [helper.make_node("Loop", ["turns", "continue_first", INPUT], [OUTPUT], body=body)]
    return _write(path, nodes, weights, TensorProto.FLOAT, [_WIDTH], (OUTPUT, [_WIDTH]))


def _constant(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    kind: int,
    shape: list[Any],
    output: tuple[str, list[int]],
) -> Path:
    """Write a graph of one input and one output of the same type with a free batch axis.

    Args:
        path: The file to write.
        nodes: Nodes of the graph.
        weights: Its initializers.
        kind: ONNX's number of the type.
        shape: Shape of an input row.
        output: Name of the output, and the shape of a row.
    """
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(INPUT, kind, ["batch", *shape])],
        [helper.make_tensor_value_info(output[0], kind, ["batch", *output[1]])],
        initializer=weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
