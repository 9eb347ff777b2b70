"""Adds a second look at inputs near the threshold, by graph surgery.

    first confidence ──in the band?──no──▶ confidence
                          └──yes──▶ view of those rows ▶ the model again ▶ average ──▶ confidence

Both ways are branches of one `If`, so that a batch without such a row costs only the comparison.
The second pass is a copy of the model's nodes. It shares weights, and nodes that do not depend on
the input, with the first. Subgraphs in the model are handled. Refused: a graph with several inputs,
or with one that is not a batch of pictures.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import contract
from export.errors import GraphError
from export.gate import Nodes
from export.graphs import names_read, nodes_within, rename_values, shape_of, width_axis

_P = "second_look/"  # keeps our names apart from the model's
_COPY = _P + "again/"
_RANK = 4
_LIMITS = (contract.SECOND_LOOK_LOW, contract.SECOND_LOOK_HIGH)


def second_look(graph: onnx.GraphProto, *, view: str, first: str, logits: str) -> Nodes:
    """Return the nodes from the first confidence to `confidence`; their constants go into `graph`.

    Rows with `low <= first <= high` get a second look: their confidence is the mean of the two
    views' softmax probabilities of the first view's prediction. A NaN is in no band, and a NaN of
    the second view makes the mean NaN, so that both defer.

    Args:
        graph: The model alone, whose nodes run again.
        view: Name of the view in `edge_runtime.contract`, e.g. `mirror`.
        first: Name of the first confidence, float32 [batch].
        logits: Name of the model's logits.

    Raises:
        GraphError: The view is unknown, or the graph takes more than pictures.
    """
    if view != contract.MIRROR:
        raise GraphError(f"expected {contract.MIRROR} as second view, got {view!r}")
    then = _then_branch(graph, first, logits)
    unchanged = helper.make_node("Identity", [first], [_P + "unchanged"])
    graph.initializer.extend(_scalar(name, np.nan) for name in _LIMITS)
    return [
        helper.make_node("GreaterOrEqual", [first, _LIMITS[0]], [_P + "above"]),
        helper.make_node("LessOrEqual", [first, _LIMITS[1]], [_P + "below"]),
        helper.make_node("And", [_P + "above", _P + "below"], [_P + "in_band"]),
        helper.make_node("NonZero", [_P + "in_band"], [_P + "found"]),
        helper.make_node("Size", [_P + "found"], [_P + "count"]),
        helper.make_node("Cast", [_P + "count"], [_P + "any"], to=TensorProto.BOOL),
        helper.make_node(
            "If",
            [_P + "any"],
            [contract.CONFIDENCE],
            then_branch=then,
            else_branch=_branch("else", [unchanged]),
        ),
    ]


def set_band(model: onnx.ModelProto, low: float, high: float) -> None:
    """Replace the limits of the band, in place; low above high switches the second look off.

    Raises:
        GraphError: The graph takes no second look.
    """
    limits = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in _LIMITS}
    if len(limits) != len(_LIMITS):
        raise GraphError(
            f"expected a graph with the initializers {' and '.join(_LIMITS)}, got one without a "
            "second look: export it with --second-look"
        )
    for name, value in zip(_LIMITS, (low, high), strict=True):
        limits[name].CopyFrom(_scalar(name, value))


def _scalar(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32), name)


def _branch(
    name: str, nodes: Nodes, constants: tuple[onnx.TensorProto, ...] = ()
) -> onnx.GraphProto:
    """Return a branch whose result, float32 [batch], is the output of its last node."""
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["batch"])
    return helper.make_graph(nodes, _P + name, [], [result], constants)


def _then_branch(graph: onnx.GraphProto, first: str, logits: str) -> onnx.GraphProto:
    source, width = _only_input(graph)
    picked, seen, rows = _P + "picked", _P + "seen", _P + "rows"
    reverse = [_P + "-1", _P + "end", _P + "width", _P + "-1"]
    again, names = _copy_model(graph, {source: seen})
    nodes = [
        helper.make_node("Squeeze", [_P + "found", _P + "0"], [rows]),
        helper.make_node("Gather", [source, rows], [picked], axis=0),
        helper.make_node("Slice", [picked, *reverse], [seen]),
        *again,
        *_probability_nodes(names[logits], rows),
        helper.make_node("Gather", [first, rows], [_P + "first"], axis=0),
        helper.make_node("Add", [_P + "first", _P + "second"], [_P + "sum"]),
        helper.make_node("Mul", [_P + "sum", _P + "half"], [_P + "mean"]),
        helper.make_node("ScatterElements", [first, rows, _P + "mean"], [_P + "changed"], axis=0),
    ]
    numbers = {"0": [0], "1": [1], "width": [width], "-1": [-1], "end": [np.iinfo(np.int64).min]}
    constants = [numpy_helper.from_array(np.array(v, np.int64), _P + n) for n, v in numbers.items()]
    return _branch("then", nodes, (*constants, _scalar(_P + "half", 0.5)))


def _probability_nodes(logits: str, rows: str) -> Nodes:
    """Return nodes for the second view's probability of the first view's prediction, [rows]."""
    return [
        helper.make_node("Cast", [logits], [_P + "logits"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", [_P + "logits"], [_P + "p"], axis=-1),
        helper.make_node("Gather", [contract.PREDICTION, rows], [_P + "prediction"], axis=0),
        helper.make_node("Unsqueeze", [_P + "prediction", _P + "1"], [_P + "column"]),
        helper.make_node("GatherElements", [_P + "p", _P + "column"], [_P + "p_column"], axis=1),
        helper.make_node("Squeeze", [_P + "p_column", _P + "1"], [_P + "second"]),
    ]


def _only_input(graph: onnx.GraphProto) -> tuple[str, int]:
    """Return (name of the one input, index of its width axis)."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != _RANK:
        names = ", ".join(value.name for value in inputs)
        raise GraphError(
            f"expected one input [batch, channels, height, width] for a second look, got {names}: "
            "export without --second-look"
        )
    return str(inputs[0].name), width_axis(shape_of(inputs[0]))


def _copy_model(graph: onnx.GraphProto, inputs: dict[str, str]) -> tuple[Nodes, dict[str, str]]:
    """Copy the nodes that depend on the inputs (name -> replacement), in the order they run.

    Returns:
        The copies, and the new name of every value that has one.
    """
    names = dict(inputs)
    copies = []
    for node in graph.node:
        if names.keys() & set(names_read(node)):
            names.update({output: _COPY + output for output in node.output if output})
            copies.append(_copy_node(node, names))
    return copies, names


def _copy_node(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    rename_values(copy, names)
    for inner in nodes_within(copy):
        inner.name = inner.name and _COPY + inner.name  # names must differ unless they are empty
    return copy
