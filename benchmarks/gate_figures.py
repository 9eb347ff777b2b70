"""Measures the gate over the logits of a large vocabulary beside the usual form of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.figure import Figure
from benchmarks.timing import paired_medians_us
from edge_runtime import contract
from export.gate import append_gate

_VOCABULARY = 256_000
_OPSET = 18
_GATE_LIMIT = 300 / 357
"""Of the same log-sum-exp with its maximum from TopK, as exporters like to write it."""
_ROUNDS = 20


def entropy_of_large_vocabulary(seed: int) -> Figure:
    """Time the mean negative entropy of one row of logits, 1 thread."""
    logits = np.random.default_rng(seed).normal(size=(1, _VOCABULARY)).astype(np.float32) * 3
    ours = _identity()
    append_gate(ours, kind=contract.NEG_ENTROPY, threshold=0.0)
    times = paired_medians_us(
        {"ours": _call(ours, logits), "peer": _call(_with_top_k(ours), logits)},
        rounds=_ROUNDS,
        calls_a_round=5,
    )
    return Figure(
        "entropy gate / the same with TopK",
        times["ours"] / times["peer"],
        _GATE_LIMIT,
        "x",
        f"{times['ours']:.0f} and {times['peer']:.0f} us, {_VOCABULARY} logits, 1 thread",
    )


def _identity() -> onnx.ModelProto:
    """Return a model that gives its input as logits: what is timed is the gate alone."""
    shape: list[str | int] = ["batch", _VOCABULARY]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["given"], ["logits"])],
        "logits",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])


def _with_top_k(model: onnx.ModelProto) -> onnx.ModelProto:
    peer = onnx.ModelProto()
    peer.CopyFrom(model)
    peer.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "peer/one"))
    (maximum,) = (node for node in peer.graph.node if node.op_type == "ReduceMax")
    top = helper.make_node(
        "TopK", [maximum.input[0], "peer/one"], [maximum.output[0], "peer/index"], axis=-1
    )
    maximum.CopyFrom(top)
    return peer


def _call(model: onnx.ModelProto, logits: Any) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [contract.CONFIDENCE, contract.DEFER]
    return lambda: session.run(outputs, {"given": logits})
