"""Recognises from a graph what a foreign classifier's output holds, and its class names.

A last operator that squashes is unmistakable, and so are the classifiers of `ai.onnx.ml` and
skl2onnx's `ZipMap`. Everything else is left to the values, and to the user (`scores`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import helper, numpy_helper

from edge_runtime.names import class_name
from export.commands.build import Scores
from export.graphs import PASSING_ON

_ZIP: Final = "ZipMap"
_CLASSIFIERS: Final = frozenset({"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"})
_PASSING_SCORES: Final = frozenset({"Normalizer", "ArrayFeatureExtractor"})
_NAMES: Final = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
Nodes = dict[str, onnx.NodeProto]


@dataclass(frozen=True)
class Head:
    """What a value holds, as the graph says.

    Attributes:
        value: Name of the value to gate, at or in front of the named one.
        scores: What it holds; None where only its values can tell.
        reason: Why, in words that follow "the model"; empty where `scores` is None.
        labels: The class names in the graph, in the order of the columns; None where it has none.
    """

    value: str
    scores: Scores | None = None
    reason: str = ""
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Zipped:
    """The scores that a `ZipMap` made dictionaries of.

    Attributes:
        value: Name of the scores.
        labels: The class names, in the order of the columns.
    """

    value: str
    labels: tuple[str, ...] | None


def unzip(graph: onnx.GraphProto) -> dict[str, Zipped]:
    """Replace outputs that are dictionaries by their scores, in place; return them by old name."""
    zips = [n for n in graph.node if n.op_type == _ZIP and len(n.input) == len(n.output) == 1]
    made = {node.output[0]: node for node in zips}
    found: dict[str, Zipped] = {}
    outputs: dict[str, onnx.ValueInfoProto] = {}
    for output in graph.output:
        node = made.get(output.name)
        if node is None:
            outputs[output.name] = output
        else:
            found[output.name] = Zipped(node.input[0], _labels(node))
            outputs.setdefault(node.input[0], onnx.ValueInfoProto(name=node.input[0]))
    values = list(outputs.values())
    del graph.output[:]
    graph.output.extend(values)
    kept = [node for node in graph.node if not found.keys() & set(node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    return found


def read_head(
    graph: onnx.GraphProto,
    name: str,
    *,
    columns: int | None,
    can_cut: bool,
    zipped: Zipped | None = None,
) -> Head:
    """Return what the graph says of one of its values.

    Args:
        graph: The graph.
        name: The value.
        columns: The number of its columns, None where the graph does not tell.
        can_cut: Whether a value in front of the last operator can be gated instead.
        zipped: The labels that a `ZipMap` gave to the value.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    last = walk_back(made_by, name)
    classifier = _classifier(made_by, last)
    labels = (zipped and zipped.labels) or _labels(classifier) or _extracted_labels(graph)
    scores, cut = _squashed(last, columns) if last else (None, None)
    if last is not None and scores is not None:
        if cut is None or not can_cut:
            return Head(name, scores, f"ends in {last.op_type}", labels)
        return Head(cut, "logits", f"ends in {last.op_type} of {cut!r}", labels)
    for reason in (
        "ends in ZipMap" if zipped else "",
        f"ends in {classifier.op_type}" if classifier else "",
        f"has labels beside {name!r}" if "prob" in name.lower() and labels else "",
    ):
        if reason:
            return Head(name, "probabilities", reason, labels)
    return Head(name, labels=labels)


def walk_back(made_by: Nodes, name: str) -> onnx.NodeProto | None:
    """Return the node that computes a value, past those that only pass it on; None for an input."""
    while name in made_by:
        node = made_by[name]
        if node.op_type not in PASSING_ON:
            return node
        name = node.input[0]
    return None


def _squashed(node: onnx.NodeProto, columns: int | None) -> tuple[Scores | None, str | None]:
    """Return (what the node makes, the logits in front of it or None)."""
    if any(a.name == "axis" and a.i == 0 for a in node.attribute):
        return None, None  # of the rows, not of the classes
    if node.op_type == "Softmax" or (node.op_type == "Sigmoid" and columns == 1):
        return "probabilities", node.input[0]
    return ("logits" if node.op_type == "LogSoftmax" else None), None


def _classifier(made_by: Nodes, node: onnx.NodeProto | None) -> onnx.NodeProto | None:
    """Return a classifier of `ai.onnx.ml` that is the node, or whose scores it passes on."""
    while node is not None and node.op_type in _PASSING_SCORES:
        node = walk_back(made_by, node.input[0])
    return node if node is not None and node.op_type in _CLASSIFIERS else None


def _labels(node: onnx.NodeProto | None) -> tuple[str, ...] | None:
    """Return the class names in a node's attributes."""
    for attribute in node.attribute if node is not None else ():
        if attribute.name in _NAMES and (found := helper.get_attribute_value(attribute)):
            return _named(found)
    return None


def _extracted_labels(graph: onnx.GraphProto) -> tuple[str, ...] | None:
    """Return the class names that a label output is picked from, as skl2onnx writes it."""
    made_by = {output: node for node in graph.node for output in node.output}
    inside = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    known = {tensor.name: tensor for tensor in inside}
    for output in graph.output:
        node = walk_back(made_by, output.name)
        if node is not None and node.op_type == "ArrayFeatureExtractor" and node.input[0] in known:
            return _named(numpy_helper.to_array(known[node.input[0]]).ravel().tolist())
    return None


def _named(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(_name(value) for value in values)


def _name(value: object) -> str:
    return class_name(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def are_numbers(labels: tuple[str, ...]) -> bool:
    """Return whether labels only number the classes, so that other names are better."""
    return labels == tuple(str(number) for number in range(len(labels)))
