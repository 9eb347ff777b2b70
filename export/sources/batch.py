"""Graphs with a fixed batch of one: they take several rows at once where that changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from export.errors import GraphError
from export.graphs import copy_model
from export.session import open_graph

_ROWS: Final = (1, 2, 5)
_CLOSE: Final = 1e-4
"""Largest difference, absolute or relative, that another order of float32 sums explains."""
Values = npt.NDArray[Any]


def free_batch(model: onnx.ModelProto, weights: Path | None, rows: Values, values: Values) -> bool:
    """Let a graph with a fixed batch of one take several rows, in place, and say whether it does.

    It does where every batch of rows gets the values that the rows get one by one.

    Args:
        model: A graph of one input and one output.
        weights: The folder of its external weights, or None.
        rows: Inputs of the graph.
        values: What the original gives for each of them by itself.
    """
    for is_loosened in (False, True):
        free = copy_model(model)
        for value in (*free.graph.input, *free.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        if is_loosened:
            _loosen_reshapes(free.graph)
        if agrees(free, weights, rows, values):
            model.CopyFrom(free)
            return True
    return False


def agrees(model: onnx.ModelProto, weights: Path | None, rows: Values, values: Values) -> bool:
    """Return whether a graph gives these values for batches of several sizes."""
    try:
        session = open_graph(model, weights)
        name = session.get_inputs()[0].name
        made = [session.run(None, {name: rows[:count]})[0] for count in _ROWS]
    except Exception:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        return False
    return all(
        got.shape == values[:count].shape and _are_close(got, values[:count])
        for got, count in zip(made, _ROWS, strict=True)
    )


def _are_close(got: Values, expected: Values) -> bool:
    close = max(_CLOSE, float(np.finfo(got.dtype).eps) * 8)
    return bool(np.allclose(got, expected, rtol=close, atol=close, equal_nan=True))


def require_agreement(
    model: onnx.ModelProto, weights: Path | None, rows: Values, values: Values, *, place: Path
) -> None:
    """Raise a `GraphError` unless a prepared graph gives the values of the original at `place`."""
    if not agrees(model, weights, rows, values):
        raise GraphError(
            f"expected {place} to give the same values after its conversion for the gate, it does "
            "not: export it at opset 17 or newer, with one float32 input and a free batch axis"
        )


def _loosen_reshapes(graph: onnx.GraphProto) -> None:
    """Let each reshape to a fixed shape [1, ...] keep the number of rows instead."""
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if (
            node.op_type == "Constant"
            and len(node.attribute) == 1
            and node.attribute[0].name == "value"
        ):
            known[node.output[0]] = node.attribute[0].t
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in known:
            continue
        shape = numpy_helper.to_array(known[node.input[1]]).copy()
        if shape.ndim == 1 and len(shape) and shape[0] > 0:
            shape[0] = 0 if -1 in shape else -1
            name = f"{node.input[1]}/rows{number}"
            graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
