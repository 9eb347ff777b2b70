"""The part of the gate that both wings put behind a model's logits: threshold and decision.

Nodes and constants of a gate have names under `gatekeeper/`, apart from those of the exporter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import contract
from export.errors import GraphError

PREFIX = "gatekeeper/"
Nodes = list[onnx.NodeProto]
_FLOOR = -1e4  # exp of it is 0, and 0 * floor is 0, while 0 * (-inf) would be NaN


def exp_nodes(logits: str) -> Nodes:
    """Return nodes for e = exp(z - max z) and its sum S, which cannot overflow."""
    p = PREFIX
    return [
        helper.make_node("ReduceMax", [logits, p + "axis"], [p + "max"], keepdims=1),
        helper.make_node("Sub", [logits, p + "max"], [p + "shifted"]),
        helper.make_node("Exp", [p + "shifted"], [p + "e"]),
        helper.make_node("ReduceSum", [p + "e", p + "axis"], [p + "S"], keepdims=0),
    ]


def neg_entropy_nodes(logits: str, confidence: str) -> Nodes:
    """Return nodes for sum(e * c) / S - log S with c = z - max z.

    S is summed before c is clamped, because the clamp may swallow a NaN.
    """
    p = PREFIX
    return [
        *exp_nodes(logits),
        helper.make_node("Max", [p + "shifted", p + "floor"], [p + "c"]),
        helper.make_node("Mul", [p + "e", p + "c"], [p + "ec"]),
        helper.make_node("ReduceSum", [p + "ec", p + "axis"], [p + "sum_ec"], keepdims=0),
        helper.make_node("Div", [p + "sum_ec", p + "S"], [p + "mean_c"]),
        helper.make_node("Log", [p + "S"], [p + "log_S"]),
        helper.make_node("Sub", [p + "mean_c", p + "log_S"], [confidence]),
    ]


def decision_nodes() -> Nodes:
    """Return nodes for `not (confidence >= threshold)`: NaN compares false, so it defers."""
    sure = PREFIX + "sure"
    return [
        helper.make_node("GreaterOrEqual", [contract.CONFIDENCE, contract.THRESHOLD], [sure]),
        helper.make_node("Not", [sure], [contract.DEFER]),
    ]


def add_constants(
    model: onnx.ModelProto, threshold: float, more: dict[str, Any] | None = None
) -> None:
    """Add the threshold, and those constants (`more` are by name) that the nodes read, in place."""
    graph = model.graph
    constants = {"axis": np.array([-1], np.int64), "floor": np.array(_FLOOR, np.float32)}
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(value, PREFIX + name)
        for name, value in {**constants, **(more or {})}.items()
        if PREFIX + name in used
    )
    graph.initializer.append(_threshold_tensor(threshold))
    graph.input.append(helper.make_tensor_value_info(contract.THRESHOLD, TensorProto.FLOAT, []))
    model.ir_version = max(model.ir_version, 4)  # from 4 on an initializer may also be fed


def set_threshold(model: onnx.ModelProto, threshold: float) -> None:
    """Replace the default of the threshold, in place.

    Raises:
        GraphError: The graph has no gate.
    """
    for tensor in model.graph.initializer:
        if tensor.name == contract.THRESHOLD:
            tensor.CopyFrom(_threshold_tensor(threshold))
            return
    raise GraphError(
        f"expected a gated graph with the initializer {contract.THRESHOLD!r}, got none: export the "
        "bundle again"
    )


def _threshold_tensor(threshold: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(threshold, np.float32), contract.THRESHOLD)
