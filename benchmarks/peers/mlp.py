"""A small graph that costs a server little, so that what is timed is the server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

FEATURES: Final = 64
HIDDEN: Final = 128
CLASSES: Final = 10
MLP_INPUT: Final = "input"
MLP_OUTPUT: Final = "logits"


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
