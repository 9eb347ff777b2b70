"""Tells logits from probabilities of a foreign classifier, and turns those into logits.

A gate works on logits, whose softmax is the model's belief. Log-probabilities are such logits.
Probabilities and percentages become them by their logarithm; in a single column they are those of
the second of two classes, and a single logit z becomes the two logits -z/2 and z/2. Logistic scores
of each class by itself have no softmax, and are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.commands.build import Scores
from export.errors import GraphError
from export.sources.refusals import several_labels

_WHOLE: dict[str, float] = {"probabilities": 1.0, "percentages": 100.0}
_ROUNDED = 5e-2  # of the whole: fp16, int8 and rounded digits sum up only roughly
_LEAST_ROWS = 16  # a few rows of logits may lie between 0 and 1 by chance
_TINY = 1e-30  # the least probability, whose logarithm is finite
_HALVES = np.array([-0.5, 0.5], np.float32)
Values = npt.NDArray[Any]


def require_scores(
    values: Values,
    declared: Scores | None,
    place: Path,
    instead: str,
    *,
    because: str = "as --scores says",
) -> Scores:
    """Return what values [n, columns] are, if a gate can work on it.

    Args:
        values: What the model gives for some inputs.
        declared: What the user says they are; only what contradicts it is refused then.
        place: The model's file, for messages.
        instead: How to name logits instead, for messages.
        because: Who declares it, for messages.

    Raises:
        GraphError: They are no logits and nothing is declared, or they are not what is declared.
    """
    numbers = values.astype(np.float64)
    if declared == "logits":
        return declared
    if declared is not None:
        if not _may_be(numbers, declared):
            raise GraphError(
                f"expected {declared} in {place}, {because}, got values from {values.min():.4g} "
                f"to {values.max():.4g} that are none: {_remedy(numbers)}"
            )
        return declared
    found = _looks_like(numbers)
    if found in _WHOLE:
        raise GraphError(
            f"expected logits in {place}, its output holds {found}, it seems: give --scores "
            f"{found} or logits, whichever they are, or {instead}"
        )
    if found is not None:
        raise several_labels(place, f"its output holds {found}")
    return "logits"


def _remedy(values: npt.NDArray[np.float64]) -> str:
    if _looks_like(values) is not None or not _is_signed(values):
        return "name what they are with --scores"
    return (
        "a model of decision scores (SVC without probability=True, raw_scores) must be exported "
        "with its probabilities; if they are logits, whose softmax is the belief, say --scores "
        "logits"
    )


def _is_signed(values: npt.NDArray[np.float64]) -> bool:
    return bool((values < 0).any())


def _looks_like(values: npt.NDArray[np.float64]) -> str | None:
    """Return what values that are no logits seem to be, or None for logits."""
    is_single = values.shape[1] == 1
    # Logits of a single column have either sign sooner or later.
    is_unclear = is_single and (len(values) < _LEAST_ROWS or bool((values < 0).any()))
    for name in () if is_unclear else _WHOLE:
        if _may_be(values, name):
            return name
    within = bool((values >= 0).all() and (values <= 1).all()) and len(values) >= _LEAST_ROWS
    return "scores from 0 to 1 of each class by itself" if within and not is_single else None


def _may_be(values: npt.NDArray[np.float64], name: str) -> bool:
    """Return whether values lie between 0 and the whole, and the classes of a row sum up to it."""
    whole = _WHOLE[name]
    shares = values / whole
    sums = shares.sum(1) if shares.shape[1] > 1 else np.ones(len(shares))
    in_range = (shares >= -_ROUNDED) & (shares <= 1 + _ROUNDED)
    return bool(in_range.all() and (np.abs(sums - 1) < _ROUNDED).all())


def as_logits(values: Values, scores: Scores) -> Values:
    """Return logits [n, classes], for values [n, columns] of these scores."""
    if scores == "logits":
        return values * _HALVES if values.shape[1] == 1 else values
    shares = values.astype(np.float32) / np.float32(_WHOLE[scores])
    if shares.shape[1] == 1:
        shares = np.concatenate([1 - shares, shares], axis=1)
    logits: Values = np.log(np.maximum(shares, np.float32(_TINY)))
    return logits


def append_logits(
    model: onnx.ModelProto, name: str, element: int, scores: Scores, columns: int
) -> tuple[str, int]:
    """Add nodes from a value [batch, columns] to its logits, in place; return (name, type)."""
    if scores == "logits" and columns > 1:
        return name, element
    steps = _Steps(model.graph, name)
    steps.add("Cast", to=TensorProto.FLOAT)
    if scores == "logits":
        steps.add("Mul", _HALVES)
        return steps.name, TensorProto.FLOAT
    steps.add("Div", np.float32(_WHOLE[scores]))
    if columns == 1:
        share = steps.name
        steps.add("Neg")
        steps.add("Add", np.float32(1))
        steps.join(share)
    steps.add("Max", np.float32(_TINY))
    steps.add("Log")
    return steps.name, TensorProto.FLOAT


class _Steps:
    """Appends one node after the other to a graph."""

    def __init__(self, graph: onnx.GraphProto, name: str) -> None:
        self.name = name
        self._graph = graph
        self._prefix = name

    def add(self, operator: str, *constants: Any, **attributes: Any) -> None:
        number = len(self._graph.node)
        inputs = [self.name]
        for value in constants:
            constant = f"{self._prefix}/constant{number}"
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), constant))
            inputs.append(constant)
        self._append(operator, inputs, number, **attributes)

    def join(self, second: str) -> None:
        self._append("Concat", [self.name, second], len(self._graph.node), axis=1)

    def _append(self, operator: str, inputs: list[str], number: int, **attributes: Any) -> None:
        self.name = f"{self._prefix}/{operator.lower()}{number}"
        node = helper.make_node(operator, inputs, [self.name], **attributes)
        self._graph.node.append(node)
