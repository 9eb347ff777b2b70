"""Puts the gate behind a classifier's logits, by graph surgery.

The gate is added last, after export and quantization. It therefore works on the graph of any
exporter, and stays in float32.
"""

from __future__ import annotations

from typing import Literal

import onnx
from onnx import TensorProto, helper

from edge_runtime import contract
from export.classifier.deferral_head import deferral_confidence
from export.classifier.second_look import second_look
from export.errors import GraphError
from export.gate import PREFIX, Nodes, add_constants, decision_nodes, neg_entropy_nodes
from export.graphs import check_graph, opset_of
from train.models import DeferralHead

Emit = Literal["none", "logits", "probabilities"]
_AXES_AS_INPUT = 18  # the opset from which ReduceMax takes its axes as an input


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
        threshold: The default of the input `threshold`.
        emit: `logits` or `probabilities` of the first view as one more output.
        view: View of a second look, whose band `set_band` sets.
        head: The deferral head of the kind `deferral_head`.

    Raises:
        GraphError: The graph has several outputs or one that is not float, cannot take a second
            look, or does not fit the head.
    """
    graph = model.graph
    logits = _logits(graph)
    nodes: Nodes = []
    source = logits
    if graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        source = PREFIX + "logits"
        nodes.append(helper.make_node("Cast", [logits], [source], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("ArgMax", [source], [contract.PREDICTION], axis=1, keepdims=0))
    first = contract.CONFIDENCE if view is None else PREFIX + "first"
    nodes += _confidence_nodes(graph, kind, head, logits=logits, source=source, confidence=first)
    if opset_of(model) < _AXES_AS_INPUT:
        nodes = [_with_axes_attribute(node) for node in nodes]
    if view is not None:
        if kind != contract.MAX_SOFTMAX:
            raise GraphError(
                f"expected {contract.MAX_SOFTMAX} for a second look, got {kind}: only "
                "probabilities can be averaged, leave out --second-look or --confidence"
            )
        nodes += second_look(graph, view=view, first=first, logits=logits)
    nodes += decision_nodes()
    nodes += _emit_nodes(source, emit, kind)
    graph.node.extend(nodes)
    add_constants(model, threshold)
    _set_outputs(graph, emit)
    check_graph(model)


def _logits(graph: onnx.GraphProto) -> str:
    if len(graph.output) != 1:
        names = ", ".join(output.name for output in graph.output)
        raise GraphError(f"expected one output, the logits, got {names}: keep the logits alone")
    kind = graph.output[0].type.tensor_type.elem_type
    if kind not in {TensorProto.FLOAT, TensorProto.FLOAT16}:
        raise GraphError(
            f"expected float32 or float16 logits, got {TensorProto.DataType.Name(kind)}: convert "
            "the model"
        )
    return str(graph.output[0].name)


def _confidence_nodes(
    graph: onnx.GraphProto,
    kind: str,
    head: DeferralHead | None,
    *,
    logits: str,
    source: str,
    confidence: str,
) -> Nodes:
    """Return the nodes of one view's confidence; `source` is the logits in float32."""
    if kind == contract.NEG_ENTROPY:
        return neg_entropy_nodes(source, confidence)
    if kind == contract.MAX_SOFTMAX:
        return _max_softmax_nodes(source, confidence)
    if head is None:
        raise GraphError(
            f"expected a deferral head for {contract.DEFERRAL_HEAD}, got none: fit one with "
            "`python -m train deferral-head`"
        )
    surest = PREFIX + "max_softmax"
    return _max_softmax_nodes(source, surest) + deferral_confidence(
        graph, head, logits=logits, max_softmax=surest, confidence=confidence
    )


def _max_softmax_nodes(logits: str, confidence: str) -> Nodes:
    """Return a fused Softmax and its maximum; a NaN anywhere in a row makes the whole row NaN."""
    probabilities = PREFIX + "p"
    return [
        helper.make_node("Softmax", [logits], [probabilities], axis=-1),
        helper.make_node("ReduceMax", [probabilities, PREFIX + "axis"], [confidence], keepdims=0),
    ]


def _with_axes_attribute(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a maximum over the classes as older opsets spell it."""
    if node.op_type != "ReduceMax":
        return node
    (keepdims,) = (a.i for a in node.attribute if a.name == "keepdims")
    return helper.make_node(
        "ReduceMax", [node.input[0]], [node.output[0]], axes=[-1], keepdims=keepdims
    )


def _emit_nodes(logits: str, emit: Emit, kind: str) -> Nodes:
    if emit == "logits" and logits == contract.LOGITS:
        return []  # the model's own value has this name
    if emit == "logits":
        return [helper.make_node("Identity", [logits], [contract.LOGITS])]
    if emit == "probabilities" and kind != contract.NEG_ENTROPY:
        return [helper.make_node("Identity", [PREFIX + "p"], [contract.PROBABILITIES])]
    if emit == "probabilities":
        return [helper.make_node("Softmax", [logits], [contract.PROBABILITIES], axis=-1)]
    return []


def _set_outputs(graph: onnx.GraphProto, emit: Emit) -> None:
    shape = graph.output[0].type.tensor_type.shape
    batch = shape.dim[0].dim_param or shape.dim[0].dim_value or "batch"
    classes = shape.dim[1].dim_value or "classes"
    del graph.output[:]
    kinds = (TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL)
    for name, kind in zip(contract.GATE_OUTPUTS, kinds, strict=True):
        graph.output.append(helper.make_tensor_value_info(name, kind, [batch]))
    if emit != "none":
        info = helper.make_tensor_value_info(emit, TensorProto.FLOAT, [batch, classes])
        graph.output.append(info)
