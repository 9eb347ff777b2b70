"""ONNX graphs to be served: what they cost is known, what they answer is not the point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.timing import time_each

# MERGEDOC benchmarks/peers/mlp.py: 'A small graph that costs a server little, so that what is timed is the server.'

INPUT: Final = "input"
OUTPUT: Final = "output"
_WIDTH: Final = 256
_OPSET: Final = 18
_IR_VERSION: Final = 10
_PROBE_TURNS: Final = 1000
_PROBES: Final = 15
_TRIES: Final = 5
_TOLERANCE: Final = 0.05

FEATURES: Final = 64
HIDDEN: Final = 128
CLASSES: Final = 10
MLP_INPUT: Final = "input"
MLP_OUTPUT: Final = "logits"


def instant(path: Path) -> Path:
    """Write a graph that cuts one element out of UINT8 [batch, height, width, 3]."""
    bounds = {"first": [0, 0, 0], "last": [1, 1, 1], "axes": [1, 2, 3]}
    weights = [
        numpy_helper.from_array(np.array(values, np.int64), name) for name, values in bounds.items()
    ]
    nodes = [helper.make_node("Slice", [INPUT, *bounds], [OUTPUT])]
    return _write(path, nodes, weights, (TensorProto.UINT8, ["height", "width", 3]), [1, 1, 1])


def slow(path: Path, seconds: float, seed: int) -> Path:
    """Write a graph of FP32 [batch, 256] that takes so long here for one row on one thread."""
    turns = _PROBE_TURNS
    for _ in range(_TRIES):  # a machine that was busy with something else is asked again
        took_s = run_s(_write_turns(path, turns, seed))
        if abs(took_s / seconds - 1) < _TOLERANCE:
            break
        turns = max(1, round(turns * seconds / took_s))
    else:
        _write_turns(path, turns, seed)
    return path


def run_s(path: Path) -> float:
    """Return the median time of a run of `slow` for one row on one thread, in seconds."""
    run = _session_run(path, np.zeros((1, _WIDTH), np.float32))
    run()
    return float(np.median(time_each(run, _PROBES))) / 1e9


def answer(path: Path, rows: Any) -> Any:
    """Return what a graph answers, for comparison with a server's answer."""
    return _session_run(path, rows)()[0]


def slow_row(seed: int) -> Any:
    """Return an input of `slow`, float32 [1, 256]."""
    return np.random.default_rng(seed).normal(size=(1, _WIDTH)).astype(np.float32)


def _session_run(path: Path, rows: Any) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {INPUT: rows})


def _write_turns(path: Path, turns: int, seed: int) -> Path:
    """Write a loop: a constant number of turns of h = tanh(h W), which neither grows nor ends."""
    weight = np.random.default_rng(seed).normal(size=(_WIDTH, _WIDTH)) / np.sqrt(_WIDTH) * 2
    free: list[str | int | None] = ["batch", _WIDTH]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["m"]),
            helper.make_node("Tanh", ["m"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["go_on_still"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, free),
        ],
        [
            helper.make_tensor_value_info("go_on_still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, free),
        ],
    )
    weights = [
        _constant("w", weight),
        numpy_helper.from_array(np.array(turns, np.int64), "turns"),
        numpy_helper.from_array(np.array(True), "go_on_first"),
    ]
    nodes = [helper.make_node("Loop", ["turns", "go_on_first", INPUT], [OUTPUT], body=body)]
    return _write(path, nodes, weights, (TensorProto.FLOAT, [_WIDTH]), [_WIDTH])


def _constant(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    taken: tuple[int, list[Any]],
    given: list[Any],
) -> Path:
    """Write a graph of one input and one output of the same type with a free batch axis."""
    kind, shape = taken
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(INPUT, kind, ["batch", *shape])],
        [helper.make_tensor_value_info(OUTPUT, kind, ["batch", *given])],
        initializer=weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def write_mlp(file: Path, *, seed: int = 0) -> None:
    """Write a two-layer perceptron as ONNX: FP32 [n, 64] -> 128 -> logits [n, 10], n free."""
    import onnx
    from onnx import helper, numpy_helper

    generator = np.random.default_rng(seed)
    sizes = {"w1": (FEATURES, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    weights = [
        numpy_helper.from_array(generator.normal(0, 0.1, shape).astype(np.float32), name)
        for name, shape in sizes.items()
    ]
    nodes = [
        helper.make_node("Gemm", [MLP_INPUT, "w1", "b1"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], [MLP_OUTPUT]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info(MLP_INPUT, floats, ["n", FEATURES])],
        [helper.make_tensor_value_info(MLP_OUTPUT, floats, ["n", CLASSES])],
        weights,
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)
