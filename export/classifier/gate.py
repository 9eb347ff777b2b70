"""Puts the gate behind a classifier's logits, by graph surgery.

Surgery comes last, after export (and after quantization), so that it works on any exporter's graph
and the gate itself stays in float32.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import contract
from export.classifier.deferral_head import deferral_confidence
from export.classifier.second_look import second_look
from export.errors import GraphError
from export.graphs import check_graph, opset_of
from train.models import DeferralHead

Emit = Literal["none", "logits", "probabilities"]

_P = "gatekeeper/"  # keeps our names apart from the exporter's
_AXES_AS_INPUT = 18  # the opset from which ReduceMax takes its axes as an input
_FLOOR = -1e4  # exp of it is 0, and 0 * floor is 0 where 0 * (-inf) would be NaN


def append_gate(
    model: onnx.ModelProto,
    *,
    kind: str,
    threshold: float,
    emit: Emit = "none",
    view: str | None = None,
    head: DeferralHead | None = None,
) -> None:
    """Replace the graph's logits by `prediction`, `confidence` and `defer`, in place.

    Args:
        model: A graph whose one output is logits float32 or float16 [batch, classes].
        kind: `max_softmax` (paper, eq. 6), `neg_entropy` (eq. 8) or `deferral_head` (Narasimhan et
            al. 2022).
        threshold: The baked default of the input `threshold`.
        emit: Keep the `logits`, or give the `probabilities`, as one more output.
        view: Take a second look with this view; where, `set_band` says. What is emitted is the
            first view's.
        head: For `deferral_head`.

    Raises:
        GraphError: The graph has not one output, or it is not float, or of this graph or kind no
            second look can be taken, or the head does not fit the graph.
    """
    graph = model.graph
    logits = _logits(graph)
    nodes = [helper.make_node("Cast", [logits], [_P + "logits"], to=TensorProto.FLOAT)]
    if graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        nodes, source = [], logits
    else:
        source = _P + "logits"
    nodes.append(helper.make_node("ArgMax", [source], [contract.PREDICTION], axis=1, keepdims=0))
    first = contract.CONFIDENCE if view is None else _P + "first"
    nodes += _confidence(graph, kind, head, logits=logits, source=source, confidence=first)
    if opset_of(model) < _AXES_AS_INPUT:
        nodes = [_axes_as_attribute(node) for node in nodes]
    if view is not None:
        _require_probability(kind)
        nodes += second_look(graph, view=view, first=first, logits=logits)
    nodes += decision()
    nodes += _emitted(source, emit, kind)
    graph.node.extend(nodes)
    _add_constants(graph, kind, threshold)
    _set_outputs(graph, emit)
    model.ir_version = max(model.ir_version, 4)  # from 4 on an initializer may also be fed
    check_graph(model)


def _logits(graph: onnx.GraphProto) -> str:
    if len(graph.output) != 1:
        names = ", ".join(output.name for output in graph.output)
        raise GraphError(f"expected one output, the logits, got {names}")
    kind = graph.output[0].type.tensor_type.elem_type
    if kind not in {TensorProto.FLOAT, TensorProto.FLOAT16}:
        raise GraphError(
            f"expected float32 or float16 logits, got {TensorProto.DataType.Name(kind)}"
        )
    return str(graph.output[0].name)


def _confidence(
    graph: onnx.GraphProto,
    kind: str,
    head: DeferralHead | None,
    *,
    logits: str,
    source: str,
    confidence: str,
) -> list[onnx.NodeProto]:
    """Return the nodes of one view's confidence; `source` is the logits in float32."""
    if kind == contract.NEG_ENTROPY:
        return neg_entropy(source, confidence)
    if kind == contract.MAX_SOFTMAX:
        return _max_softmax(source, confidence)
    if head is None:
        raise GraphError(f"expected a deferral head for {contract.DEFERRAL_HEAD}, got none")
    surest = _P + "max_softmax"
    return _max_softmax(source, surest) + deferral_confidence(
        graph, head, logits=logits, max_softmax=surest, confidence=confidence
    )


def _require_probability(kind: str) -> None:
    if kind != contract.MAX_SOFTMAX:
        raise GraphError(
            f"expected {contract.MAX_SOFTMAX} for a second look, got {kind}: the mean of two views "
            "is one of probabilities, leave out --second-look or --confidence"
        )


def _max_softmax(logits: str, confidence: str) -> list[onnx.NodeProto]:
    """Softmax is one fused kernel, and a NaN anywhere in a row makes the whole row NaN."""
    return [
        helper.make_node("Softmax", [logits], [_P + "p"], axis=-1),
        helper.make_node("ReduceMax", [_P + "p", _P + "axis"], [confidence], keepdims=0),
    ]


def neg_entropy(logits: str, confidence: str) -> list[onnx.NodeProto]:
    """Log-sum-exp form: sum(e * c) / S - log S with c = z - max z, e = exp c, S = sum e."""
    return [
        helper.make_node("ReduceMax", [logits, _P + "axis"], [_P + "max"], keepdims=1),
        helper.make_node("Sub", [logits, _P + "max"], [_P + "shifted"]),
        # S is summed before the clamp, which may swallow a NaN.
        helper.make_node("Exp", [_P + "shifted"], [_P + "e"]),
        helper.make_node("ReduceSum", [_P + "e", _P + "axis"], [_P + "S"], keepdims=0),
        helper.make_node("Max", [_P + "shifted", _P + "floor"], [_P + "c"]),
        helper.make_node("Mul", [_P + "e", _P + "c"], [_P + "ec"]),
        helper.make_node("ReduceSum", [_P + "ec", _P + "axis"], [_P + "sum_ec"], keepdims=0),
        helper.make_node("Div", [_P + "sum_ec", _P + "S"], [_P + "mean_c"]),
        helper.make_node("Log", [_P + "S"], [_P + "log_S"]),
        helper.make_node("Sub", [_P + "mean_c", _P + "log_S"], [confidence]),
    ]


def _axes_as_attribute(node: onnx.NodeProto) -> onnx.NodeProto:
    """Write the maximum over the classes as older opsets do."""
    if node.op_type != "ReduceMax":
        return node
    (keepdims,) = (a.i for a in node.attribute if a.name == "keepdims")
    return helper.make_node(
        "ReduceMax", [node.input[0]], [node.output[0]], axes=[-1], keepdims=keepdims
    )


def decision() -> list[onnx.NodeProto]:
    """`not (confidence >= threshold)`: NaN compares false, so it defers."""
    sure = _P + "sure"
    return [
        helper.make_node("GreaterOrEqual", [contract.CONFIDENCE, contract.THRESHOLD], [sure]),
        helper.make_node("Not", [sure], [contract.DEFER]),
    ]


def _emitted(logits: str, emit: Emit, kind: str) -> list[onnx.NodeProto]:
    if emit == "logits" and logits == contract.LOGITS:
        return []  # the model's own value is called so
    if emit == "logits":
        return [helper.make_node("Identity", [logits], [contract.LOGITS])]
    if emit == "probabilities" and kind != contract.NEG_ENTROPY:
        return [helper.make_node("Identity", [_P + "p"], [contract.PROBABILITIES])]
    if emit == "probabilities":
        return [helper.make_node("Softmax", [logits], [contract.PROBABILITIES], axis=-1)]
    return []


def _add_constants(graph: onnx.GraphProto, kind: str, threshold: float) -> None:
    axis = numpy_helper.from_array(np.array([-1], np.int64), _P + "axis")
    graph.initializer.append(axis)
    if kind == contract.NEG_ENTROPY:
        floor = numpy_helper.from_array(np.array(_FLOOR, np.float32), _P + "floor")
        graph.initializer.append(floor)
    graph.initializer.append(threshold_tensor(threshold))
    graph.input.append(helper.make_tensor_value_info(contract.THRESHOLD, TensorProto.FLOAT, []))


def threshold_tensor(threshold: float) -> onnx.TensorProto:
    """Return the initializer `threshold`, float32."""
    return numpy_helper.from_array(np.array(threshold, np.float32), contract.THRESHOLD)


def _set_outputs(graph: onnx.GraphProto, emit: Emit) -> None:
    shape = graph.output[0].type.tensor_type.shape
    batch = shape.dim[0].dim_param or "batch"
    classes = shape.dim[1].dim_value or "classes"
    del graph.output[:]
    kinds = (TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL)
    for name, kind in zip(contract.GATE_OUTPUTS, kinds, strict=True):
        graph.output.append(helper.make_tensor_value_info(name, kind, [batch]))
    if emit != "none":
        info = helper.make_tensor_value_info(emit, TensorProto.FLOAT, [batch, classes])
        graph.output.append(info)


def set_threshold(model: onnx.ModelProto, threshold: float) -> None:
    """Rewrite the baked threshold, in place.

    Raises:
        GraphError: The graph has no gate.
    """
    for tensor in model.graph.initializer:
        if tensor.name == contract.THRESHOLD:
            tensor.CopyFrom(threshold_tensor(threshold))
            return
    raise GraphError(f"expected a gated graph with the initializer {contract.THRESHOLD!r}")
