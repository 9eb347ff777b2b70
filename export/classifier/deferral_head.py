"""Puts a deferral head beside the layer that gives the logits, by graph surgery.

    features ─┬─ last layer ─ logits ─ softmax ─ max ─┐
              └─ weighted sum ────────────────────────┴─ sum ─ sigmoid ─▶ confidence

The last layer is a Gemm or a MatMul with a constant matrix [classes, D] or [D, classes]; Add, Cast
and Identity may stand between it and the logits. Refused: any other end of a graph, and a matrix
of other classes or features than expected. The head itself is float32, whatever the model is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import GraphError
from train.models import DeferralHead

_P = "deferral_head/"  # keeps our names apart from the model's
_BETWEEN = frozenset({"Add", "Cast", "Identity"})
_RANK = 2


def deferral_confidence(
    graph: onnx.GraphProto, head: DeferralHead, *, logits: str, max_softmax: str, confidence: str
) -> list[onnx.NodeProto]:
    """Return the nodes from the features to the confidence; their constants go into `graph`.

    A NaN among the features or the logits makes the confidence NaN, because the max softmax is
    then NaN and enters the sum whatever its weight.

    Args:
        graph: The model alone.
        head: The head to add; its sign is inverted, because the confidence is 1 - P(defer).
        logits: Name of the model's logits.
        max_softmax: Name of the greatest softmax probability, float32 [batch].
        confidence: Name of the confidence to compute, float32 [batch].

    Raises:
        GraphError: The graph does not end in a linear layer that reads the head's features.
    """
    features, element = _features(graph, logits, head.weight.size - 1)
    constants = {
        "weight": -head.weight[:-1],
        "weight_of_max_softmax": -head.weight[-1],
        "bias": -np.float32(head.bias),
    }
    for name, values in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), _P + name))
    nodes = []
    if element != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [features], [_P + "features"], to=TensorProto.FLOAT))
        features = _P + "features"
    parts = [_P + "of_features", _P + "of_max_softmax"]
    return [
        *nodes,
        helper.make_node("MatMul", [features, _P + "weight"], [parts[0]]),
        helper.make_node("Mul", [max_softmax, _P + "weight_of_max_softmax"], [parts[1]]),
        helper.make_node("Sum", [*parts, _P + "bias"], [_P + "logit"]),
        helper.make_node("Sigmoid", [_P + "logit"], [confidence]),
    ]


def _features(graph: onnx.GraphProto, logits: str, width: int) -> tuple[str, int]:
    """Return (name of the last layer's input, its element type)."""
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    layer = _last_layer(logits, made_by, constants.keys())
    matrix = constants.get(layer.input[1])
    if matrix is None or len(matrix.dims) != _RANK or _attribute(layer, "transA"):
        raise GraphError(_refusal(f"a {layer.op_type} without a constant matrix of weights"))
    classes, features = reversed(matrix.dims)
    if _attribute(layer, "transB"):
        classes, features = features, classes
    known = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if features != width or (known and classes != known):
        got = f"one of {features} features and {classes} classes"
        raise GraphError(_refusal(got, width, known))
    return str(layer.input[0]), int(matrix.data_type)


def _last_layer(name: str, made_by: dict[str, onnx.NodeProto], constants: Any) -> onnx.NodeProto:
    """Follow the logits backwards to the node that multiplies."""
    while name in made_by:
        node = made_by[name]
        if node.op_type in {"Gemm", "MatMul"}:
            return node
        computed = [source for source in node.input if source not in constants]
        if node.op_type not in _BETWEEN or len(computed) != 1:
            raise GraphError(_refusal(f"the node {node.op_type}"))
        name = computed[0]
    raise GraphError(_refusal("no layer"))


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)


def _refusal(got: str, features: int | None = None, classes: int | None = None) -> str:
    wanted = f" of {features} features" if features else ""
    wanted += f" and {classes} classes" if classes else ""
    return (
        f"expected a graph whose logits come from one linear layer{wanted}, beside which the "
        f"deferral head goes, got {got}: export with another --confidence"
    )
