"""A model with one input for each column of a table, which becomes one tensor of all columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import GraphError
from export.graphs import shape_of
from export.sources.source import Feeds

_NUMPY: Final = {
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
_NUMBERS: Final = frozenset(
    (*(TensorProto.FLOAT, TensorProto.DOUBLE), TensorProto.INT64, TensorProto.INT32)
)
_NAME: Final = "columns"
_RANK: Final = 2


def feeds_of(nodes: Sequence[Any], rows: npt.NDArray[Any]) -> Feeds:
    """Return the feeds of a model's own inputs, as ONNX Runtime describes them, for one tensor."""
    if len(nodes) == 1:
        (node,) = nodes
        return {node.name: rows.astype(_NUMPY.get(node.type, rows.dtype), copy=False)}
    ends = np.cumsum([node.shape[1] for node in nodes])
    parts = np.split(rows, ends[:-1], axis=1)
    return {n.name: part.astype(_NUMPY[n.type]) for n, part in zip(nodes, parts, strict=True)}


def merge_columns(model: onnx.ModelProto, place: Path) -> tuple[str, ...]:
    """Give a model of numbers one float32 input, in place; return the names of its columns.

    Other models stay as they are. Nothing is returned for a model with one input, which only
    becomes float32: one of float64, or of whole numbers in a model of `ai.onnx.ml`.

    Raises:
        GraphError: Columns hold texts.
    """
    values = list(model.graph.input)
    kinds = [value.type.tensor_type.elem_type for value in values]
    is_table = any(node.domain == "ai.onnx.ml" for node in model.graph.node)
    if kinds == [TensorProto.DOUBLE] or (kinds == [TensorProto.INT64] and is_table):
        _put_in_front(model.graph, values, values[0].name + "/float32")
        return ()
    shapes = [shape_of(value) for value in values]
    if len(values) < _RANK or not all(len(s) == _RANK and isinstance(s[1], int) for s in shapes):
        return ()
    wide = [kind for value, kind in zip(values, kinds, strict=True) if _width(value) > 1]
    if not is_table and {TensorProto.INT64, TensorProto.INT32} & {*wide}:
        return ()  # tokens of texts, for example
    for value, kind in zip(values, kinds, strict=True):
        if kind not in _NUMBERS:
            raise GraphError(
                f"expected numbers in each column of {place}, {value.name} takes "
                f"{TensorProto.DataType.Name(kind)}: turn it into numbers in your own code, and "
                "export the model behind that"
            )
    name = _NAME
    while any(name in (*node.input, *node.output) for node in model.graph.node):
        name += "_"
    _put_in_front(model.graph, values, name)
    return tuple(
        value.name if _width(value) == 1 else f"{value.name}[{number}]"
        for value in values
        for number in range(_width(value))
    )


def _width(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.shape.dim[1].dim_value)


def _put_in_front(graph: onnx.GraphProto, values: list[Any], name: str) -> None:
    """Replace inputs by one float32 tensor that holds them side by side."""
    first = values[0].type.tensor_type.shape
    shape = [axis.dim_value or axis.dim_param or None for axis in first.dim]
    parts = [f"{name}/{value.name}" for value in values]
    nodes = []
    if len(values) > 1:
        widths = [_width(value) for value in values]
        shape[1] = sum(widths)
        graph.initializer.append(numpy_helper.from_array(np.array(widths), f"{name}/widths"))
        nodes.append(helper.make_node("Split", [name, f"{name}/widths"], parts, axis=1))
    else:
        parts = [name]
    nodes += [
        helper.make_node("Cast", [part], [value.name], to=value.type.tensor_type.elem_type)
        for part, value in zip(parts, values, strict=True)
    ]
    nodes += graph.node
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
