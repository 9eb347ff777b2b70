"""Puts the running gate behind a decoder's logits, by graph surgery.

The graph computes everything that a decoding loop needs: the next token, whether a row continues,
the confidence so far and the decision. A binding feeds the state back and does no arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge_runtime import contract
from edge_runtime.metrics import SEQUENCE_KINDS
from export.errors import GraphError
from export.gate import PREFIX as _P
from export.gate import Nodes, add_constants, decision_nodes, exp_nodes, neg_entropy_nodes
from export.graphs import check_graph

_MEANS = (contract.NEG_ENTROPY, contract.MEAN_LOGPROB)
_PROBABILITIES = (contract.MIN_PROB, contract.MAX_SOFTMAX)
_PAST_CONFIDENCE = contract.PAST + contract.STATE_CONFIDENCE
_PAST_COUNT = contract.PAST + contract.STATE_COUNT
_PAST_ACTIVE = contract.PAST + contract.STATE_ACTIVE
_CONFIDENCE = contract.PRESENT + contract.STATE_CONFIDENCE
_COUNT = contract.PRESENT + contract.STATE_COUNT
_ACTIVE = contract.PRESENT + contract.STATE_ACTIVE
_MASK = contract.PRESENT + contract.ATTENTION_MASK


def append_sequence_gate(
    model: onnx.ModelProto, *, kind: str, threshold: float, ends: Sequence[int], pad: int
) -> None:
    """Replace a decoder's logits by token, confidence, decision and state, in place.

    Args:
        model: A graph of `export.language.step`: logits float32 or float16 [batch, V] and caches.
        kind: One of `metrics.SEQUENCE_KINDS`.
        threshold: The default of the input `threshold`.
        ends: The end-of-sequence tokens.
        pad: The token of a row that has ended.

    Raises:
        GraphError: The kind is unknown, there is no end, or the graph is not a decoder.
    """
    if kind not in SEQUENCE_KINDS:
        raise GraphError(f"expected one of {', '.join(SEQUENCE_KINDS)}, got {kind!r}")
    if not ends:
        raise GraphError(
            "expected at least one end-of-sequence token, got none: set one in the tokenizer"
        )
    graph = model.graph
    if not graph.output or graph.output[0].name != contract.LOGITS:
        raise GraphError(
            f"expected a decoder whose first output is {contract.LOGITS!r}, got another graph"
        )
    nodes = [helper.make_node("Cast", [contract.LOGITS], [_P + "z"], to=TensorProto.FLOAT)]
    nodes += _token_nodes() + _token_confidence_nodes(kind)
    nodes += _accumulation_nodes(kind) + _confidence_nodes(kind)
    nodes += decision_nodes() + _mask_nodes()
    graph.node.extend(nodes)
    _set_states(graph)
    constants: dict[str, Any] = {
        "zero": np.array(0.0, np.float32),
        "nan": np.array(np.nan, np.float32),
        "none": np.array(0, np.int64),
        "single": np.array([1], np.int64),
        "pad": np.array(pad, np.int64),
        "ends": np.array([list(ends)], np.int64),
    }
    add_constants(model, threshold, constants)
    check_graph(model)


def _token_nodes() -> Nodes:
    """Return nodes for the first arg-max, padding after the end of a row, and the active rows."""
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


def _token_confidence_nodes(kind: str) -> Nodes:
    """Return nodes for the negative entropy, or the arg-max's log-probability -log sum exp."""
    if kind == contract.NEG_ENTROPY:
        return neg_entropy_nodes(_P + "z", contract.TOKEN_CONFIDENCE)
    return [
        *exp_nodes(_P + "z"),
        helper.make_node("Log", [_P + "S"], [_P + "log_S"]),
        helper.make_node("Neg", [_P + "log_S"], [contract.TOKEN_CONFIDENCE]),
    ]


def _accumulation_nodes(kind: str) -> Nodes:
    """Return nodes that add this token to the accumulator, except in rows that have ended."""
    node, t = helper.make_node, contract.TOKEN_CONFIDENCE
    new = _P + "accumulated"
    if kind == contract.MIN_PROB:
        # NaN compares false: one in the token is selected, one in the accumulator is added again.
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


def _confidence_nodes(kind: str) -> Nodes:
    """Return nodes for the confidence so far; NaN, which defers, without any token."""
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


def _mask_nodes() -> Nodes:
    """Return nodes for the mask of the next step, which has one more position."""
    node = helper.make_node
    return [
        node("Shape", [_PAST_COUNT], [_P + "rows"]),
        node("Concat", [_P + "rows", _P + "single"], [_P + "column_shape"], axis=0),
        node("Expand", [_P + "single", _P + "column_shape"], [_P + "ones"]),
        node("Concat", [contract.ATTENTION_MASK, _P + "ones"], [_MASK], axis=1),
    ]


def _set_states(graph: onnx.GraphProto) -> None:
    info = helper.make_tensor_value_info
    states = {
        contract.STATE_CONFIDENCE: TensorProto.FLOAT,
        contract.STATE_COUNT: TensorProto.INT64,
        contract.STATE_ACTIVE: TensorProto.BOOL,
    }
    caches = list(graph.output)[1:]
    graph.input.extend(info(contract.PAST + n, kind, ["batch"]) for n, kind in states.items())
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
