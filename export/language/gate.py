"""Puts the running gate behind a decoder's logits, by graph surgery.

Everything a decoding loop would compute is in the graph: the next token, whether a row goes on, the
confidence so far and the decision. A binding feeds state back and does no arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import contract
from edge_runtime.metrics import SEQUENCE_KINDS
from export.classifier.gate import decision, neg_entropy, threshold_tensor
from export.errors import GraphError
from export.graphs import check_graph
from export.language.step import LOGITS

_P = "gatekeeper/"  # keeps our names apart from the exporter's
_MEANS = (contract.NEG_ENTROPY, contract.MEAN_LOGPROB)
_PROBABILITIES = (contract.MIN_PROB, contract.MAX_SOFTMAX)
_PAST_CONFIDENCE = contract.PAST + contract.STATE_CONFIDENCE
_PAST_COUNT = contract.PAST + contract.STATE_COUNT
_PAST_ACTIVE = contract.PAST + contract.STATE_ACTIVE
_CONFIDENCE = contract.PRESENT + contract.STATE_CONFIDENCE
_COUNT = contract.PRESENT + contract.STATE_COUNT
_ACTIVE = contract.PRESENT + contract.STATE_ACTIVE
_MASK = contract.PRESENT + contract.ATTENTION_MASK
_Nodes = list[onnx.NodeProto]


def append_sequence_gate(
    model: onnx.ModelProto, *, kind: str, threshold: float, ends: Sequence[int], pad: int
) -> None:
    """Replace a decoder's logits by token, confidence, decision and state, in place.

    Args:
        model: A graph of `export.language.step`: logits float32 or float16 [batch, V] and caches.
        kind: One of `metrics.SEQUENCE_KINDS`.
        threshold: The baked default of the input `threshold`.
        ends: The end-of-sequence tokens.
        pad: What a row that has ended gets for a token.

    Raises:
        GraphError: The kind is unknown, there is no end, or the graph is no decoder's.
    """
    if kind not in SEQUENCE_KINDS:
        raise GraphError(f"expected one of {', '.join(SEQUENCE_KINDS)}, got {kind!r}")
    if not ends:
        raise GraphError("expected at least one end-of-sequence token, got none")
    graph = model.graph
    if not graph.output or graph.output[0].name != LOGITS:
        raise GraphError(f"expected a decoder whose first output is {LOGITS!r}")
    nodes = [helper.make_node("Cast", [LOGITS], [_P + "z"], to=TensorProto.FLOAT)]
    nodes += _token() + _token_confidence(kind) + _accumulated(kind) + _confidence(kind)
    nodes += decision() + _mask()
    graph.node.extend(nodes)
    _add_constants(graph, threshold, ends, pad)
    _set_interface(graph)
    model.ir_version = max(model.ir_version, 4)  # from 4 on an initializer may also be fed
    check_graph(model)


def _token() -> _Nodes:
    """The first arg-max, the filling where a row has ended, and whether it goes on."""
    node = helper.make_node
    return [
        node("ArgMax", [_P + "z"], [_P + "top"], axis=-1, keepdims=0),
        node("Where", [_PAST_ACTIVE, _P + "top", _P + "pad"], [contract.NEXT_TOKEN]),
        node("Unsqueeze", [_P + "top", _P + "axis"], [_P + "column"]),
        node("Equal", [_P + "column", _P + "ends"], [_P + "is_end"]),
        node("Cast", [_P + "is_end"], [_P + "is_end_number"], to=TensorProto.INT32),
        node("ReduceMax", [_P + "is_end_number", _P + "axis"], [_P + "any_end"], keepdims=0),
        node("Cast", [_P + "any_end"], [_P + "ended"], to=TensorProto.BOOL),
        node("Not", [_P + "ended"], [_P + "goes_on"]),
        node("And", [_PAST_ACTIVE, _P + "goes_on"], [_ACTIVE]),
        node("Cast", [_PAST_ACTIVE], [_P + "one"], to=TensorProto.INT64),
        node("Add", [_PAST_COUNT, _P + "one"], [_COUNT]),
    ]


def _token_confidence(kind: str) -> _Nodes:
    """The negative entropy, or the log-probability of the arg-max: -log sum exp(z - max z)."""
    if kind == contract.NEG_ENTROPY:
        return neg_entropy(_P + "z", contract.TOKEN_CONFIDENCE)
    node = helper.make_node
    return [
        node("ReduceMax", [_P + "z", _P + "axis"], [_P + "max"], keepdims=1),
        node("Sub", [_P + "z", _P + "max"], [_P + "shifted"]),
        node("Exp", [_P + "shifted"], [_P + "e"]),
        node("ReduceSum", [_P + "e", _P + "axis"], [_P + "S"], keepdims=0),
        node("Log", [_P + "S"], [_P + "log_S"]),
        node("Neg", [_P + "log_S"], [contract.TOKEN_CONFIDENCE]),
    ]


def _accumulated(kind: str) -> _Nodes:
    """The accumulator with this token; a row that has ended keeps its own."""
    node, t = helper.make_node, contract.TOKEN_CONFIDENCE
    new = _P + "accumulated"
    if kind == contract.MIN_PROB:
        # A NaN compares false: one in the token is taken, one in the accumulator added again.
        nodes = [
            node("Less", [_PAST_CONFIDENCE, t], [_P + "is_less"]),
            node("Where", [_P + "is_less", _PAST_CONFIDENCE, t], [_P + "least"]),
            node("Mul", [_PAST_CONFIDENCE, _P + "zero"], [_P + "nan_before"]),
            node("Add", [_P + "least", _P + "nan_before"], [new]),
        ]
    elif kind == contract.MAX_SOFTMAX:
        nodes = [
            node("Equal", [_PAST_COUNT, _P + "none"], [_P + "is_first"]),
            node("Where", [_P + "is_first", t, _PAST_CONFIDENCE], [_P + "first"]),
            node("Mul", [t, _P + "zero"], [_P + "nan_now"]),
            node("Add", [_P + "first", _P + "nan_now"], [new]),
        ]
    else:
        nodes = [node("Add", [_PAST_CONFIDENCE, t], [new])]
    return [*nodes, node("Where", [_PAST_ACTIVE, new, _PAST_CONFIDENCE], [_CONFIDENCE])]


def _confidence(kind: str) -> _Nodes:
    """The confidence so far; NaN, which defers, where no token was generated."""
    node = helper.make_node
    if kind in _MEANS:
        return [
            node("Cast", [_COUNT], [_P + "count"], to=TensorProto.FLOAT),
            node("Div", [_CONFIDENCE, _P + "count"], [contract.CONFIDENCE]),  # 0 / 0 is NaN
        ]
    value, nodes = _CONFIDENCE, []
    if kind in _PROBABILITIES:
        value = _P + "probability"
        nodes = [node("Exp", [_CONFIDENCE], [value])]
    return [
        *nodes,
        node("Equal", [_COUNT, _P + "none"], [_P + "is_empty"]),
        node("Where", [_P + "is_empty", _P + "nan", value], [contract.CONFIDENCE]),
    ]


def _mask() -> _Nodes:
    """The mask of the next step: one position more."""
    node = helper.make_node
    return [
        node("Shape", [_PAST_COUNT], [_P + "rows"]),
        node("Concat", [_P + "rows", _P + "single"], [_P + "column_shape"], axis=0),
        node("Expand", [_P + "single", _P + "column_shape"], [_P + "ones"]),
        node("Concat", [contract.ATTENTION_MASK, _P + "ones"], [_MASK], axis=1),
    ]


def _add_constants(graph: onnx.GraphProto, threshold: float, ends: Sequence[int], pad: int) -> None:
    constants: dict[str, Any] = {
        "axis": np.array([-1], np.int64),
        "floor": np.array(-1e4, np.float32),
        "zero": np.array(0.0, np.float32),
        "nan": np.array(np.nan, np.float32),
        "none": np.array(0, np.int64),
        "single": np.array([1], np.int64),
        "pad": np.array(pad, np.int64),
        "ends": np.array([list(ends)], np.int64),
    }
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(value, _P + name)
        for name, value in constants.items()
        if _P + name in used
    )
    graph.initializer.append(threshold_tensor(threshold))


def _set_interface(graph: onnx.GraphProto) -> None:
    info = helper.make_tensor_value_info
    states = {
        contract.STATE_CONFIDENCE: TensorProto.FLOAT,
        contract.STATE_COUNT: TensorProto.INT64,
        contract.STATE_ACTIVE: TensorProto.BOOL,
    }
    caches = list(graph.output)[1:]
    graph.input.extend(info(contract.PAST + n, kind, ["batch"]) for n, kind in states.items())
    graph.input.append(info(contract.THRESHOLD, TensorProto.FLOAT, []))
    del graph.output[:]
    graph.output.extend(
        info(name, kind, ["batch"])
        for name, kind in (
            (contract.NEXT_TOKEN, TensorProto.INT64),
            (contract.TOKEN_CONFIDENCE, TensorProto.FLOAT),
            (contract.CONFIDENCE, TensorProto.FLOAT),
            (contract.DEFER, TensorProto.BOOL),
        )
    )
    graph.output.append(info(_MASK, TensorProto.INT64, ["batch", "next_total"]))
    graph.output.extend(caches)
    graph.output.extend(info(contract.PRESENT + n, kind, ["batch"]) for n, kind in states.items())
