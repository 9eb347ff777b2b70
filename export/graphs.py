"""Surgery on ONNX graphs that come from any exporter.

Unless they say otherwise, functions work in place, include subgraphs, and leave weights in external
files where they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper, version_converter

from edge_runtime import contract
from edge_runtime.files import one_line
from export.errors import GraphError

LEAST_OPSET = 13
"""The first opset whose Softmax, Squeeze and ReduceSum are those that the gate uses."""
MESSAGE_BYTES = (1 << 31) - (1 << 24)
"""Limit of a protobuf message: a larger one can be written, but not read."""
_RESERVED = frozenset(
    {
        *contract.GATE_OUTPUTS,
        contract.IMAGE,
        contract.THRESHOLD,
        contract.PROBABILITIES,
        contract.LOGITS,
        contract.SECOND_LOOK_LOW,
        contract.SECOND_LOOK_HIGH,
    }
)
_PREFIX = "model/"
PASSING_ON = frozenset(
    (
        *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("QuantizeLinear", "DequantizeLinear"),
    )
)
_SQUASHING = frozenset({"Softmax", "Sigmoid", "ArgMax"})
_DEFAULT_DOMAINS = ("", "ai.onnx")
_NO_ADAPTER = re.compile(r"No Adapter.*? for (\w+)", re.IGNORECASE)
_FUSED, _UNFUSED = "the fused preprocessing", ", or use --preprocessing none"
_RANK = 4
_CHANNELS = frozenset({1, 3})
Shape = Sequence[int | str]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes, at any depth."""
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            yield graph
            for inner in graph.node:
                yield from subgraphs(inner)


def nodes_within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield a node and all nodes of its subgraphs."""
    yield node
    for graph in subgraphs(node):
        yield from graph.node


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every name that a node or its subgraphs read, including names of the subgraphs."""
    for inner in nodes_within(node):
        yield from inner.input
    for graph in subgraphs(node):
        yield from (output.name for output in graph.output)


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every stored tensor: initializers, and constants of nodes."""
    for each in _all_graphs(graph):
        yield from each.initializer
        for node in each.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t


def _all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from subgraphs(node)


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an independent copy of a graph; external weights stay where they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def serialize(model: onnx.ModelProto, *, limit: int = MESSAGE_BYTES) -> bytes:
    """Return the bytes of a graph; raise `GraphError` if they are too many to be read again."""
    _require_size(model, limit)
    return bytes(model.SerializeToString(deterministic=True))


def _require_size(model: onnx.ModelProto, limit: int) -> None:
    size = model.ByteSize()
    if size >= limit:
        raise GraphError(
            f"expected a graph under {limit / 1e9:.1f} GB, got {size / 1e9:.1f} GB with its "
            "weights: save it as ONNX with external data and give --onnx"
        )


def has_halves(graph: onnx.GraphProto) -> bool:
    """Return whether a graph stores float16."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in tensors(graph))


def check_graph(model: onnx.ModelProto) -> None:
    """Check a graph against the ONNX standard.

    Raises:
        GraphError: The graph is too large, or invalid.
    """
    _require_size(model, MESSAGE_BYTES)
    # The checker looks for external files in the working directory; ONNX Runtime, which runs every
    # graph before it is written, knows where they are.
    if all(t.data_location != TensorProto.EXTERNAL for t in tensors(model.graph)):
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise GraphError(
                f"expected a graph that keeps to the ONNX standard, it does not "
                f"({one_line(error, 200)}): export it again"
            ) from None


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a graph uses; 0 if it names none."""
    versions = [o.version for o in model.opset_import if o.domain in _DEFAULT_DOMAINS]
    return max(versions, default=0)


def merge_opsets(model: onnx.ModelProto) -> None:
    """Name each set of operators once; a graph of other sets alone gets the gate's version."""
    uses_default = any(node.domain in _DEFAULT_DOMAINS for node in model.graph.node)
    versions = {o.domain: o.version for o in model.opset_import}
    if not uses_default and not opset_of(model):
        versions[""] = LEAST_OPSET
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*pair) for pair in versions.items())


def raise_opset(
    model: onnx.ModelProto, least: int, *, why: str = _FUSED, instead: str = _UNFUSED
) -> onnx.ModelProto:
    """Return the graph in at least this version of the standard operators.

    Args:
        model: The graph.
        least: The version.
        why: What needs it, for the message.
        instead: What else the user can do.

    Raises:
        GraphError: The graph cannot be converted.
    """
    if opset_of(model) >= least:
        return model
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs as well
    try:
        converted = version_converter.convert_version(model, least)
        if not converted.functions:  # the converter leaves them out
            converted.functions.extend(model.functions)
    except Exception as error:  # noqa: BLE001 - the converter raises RuntimeError and its own
        raise GraphError(
            f"expected a graph that converts from opset {opset_of(model)} to {least}, which "
            f"{why} needs, {_unconverted(error)}: export it at {least} or newer{instead}"
        ) from None
    return converted


def _unconverted(error: Exception) -> str:
    """Return what onnx's converter stopped at: an operator that it cannot convert, or its words."""
    found = _NO_ADAPTER.search(str(error))
    if found:
        return f"onnx has no converter for its operator {found[1]}"
    return f"onnx's converter failed ({one_line(error, 200)})"


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove all traces of where a graph was made (stack traces, paths), and inferred shapes."""
    in_functions = [node for function in model.functions for node in function.node]
    graphs = [*_all_graphs(model.graph), *(g for node in in_functions for g in subgraphs(node))]
    for graph in graphs:
        del graph.value_info[:]
        for part in (graph, *graph.node, *_named(graph)):
            _strip(part)
    for part in (model, *model.functions, *in_functions):
        _strip(part)


def _strip(part: Any) -> None:
    part.doc_string = ""
    del part.metadata_props[:]


def drop_weights_from_inputs(graph: onnx.GraphProto) -> None:
    """Make initializers constants; old exporters list every weight as an input as well."""
    weights = {tensor.name for tensor in graph.initializer}
    _replace(graph.input, [value for value in graph.input if value.name not in weights])


def keep_output(
    graph: onnx.GraphProto, name: str, element: int, classes: int, *, batch: int | str = "batch"
) -> None:
    """Make a value float [batch, classes] the only output, and drop everything it does not need."""
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, element, [batch, classes]))
    needed = {name}
    kept: list[onnx.NodeProto] = []
    sort_nodes(graph)
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(names_read(node))
    _replace(graph.node, kept[::-1])
    _replace(graph.initializer, [t for t in graph.initializer if t.name in needed])
    sparse = [t for t in graph.sparse_initializer if t.values.name in needed]
    _replace(graph.sparse_initializer, sparse)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes into an order they can run in, which the standard demands but few tools keep.

    Raises:
        GraphError: The graph has a cycle.
    """
    waiting = list(graph.node)
    missing = {output for node in waiting for output in node.output if output}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if missing.isdisjoint(names_read(node)):
                ordered.append(node)
                missing.difference_update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise GraphError(
                f"expected a graph without a cycle, got one through {later[0].op_type}: export it "
                "again"
            )
        waiting = later
    _replace(graph.node, ordered)


def _replace(field: Any, values: list[Any]) -> None:
    del field[:]
    field.extend(values)


def rename_reserved(graph: onnx.GraphProto) -> None:
    """Rename values whose names belong to the gate contract."""
    names = {name: _PREFIX + name for name in _RESERVED}
    for value in _named(graph):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        rename_values(node, names)


def rename_values(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename the values that a node and its subgraphs read and write."""
    for inner in nodes_within(node):
        inner.input[:] = [names.get(name, name) for name in inner.input]
        inner.output[:] = [names.get(name, name) for name in inner.output]
    for graph in subgraphs(node):
        for value in _named(graph):
            value.name = names.get(value.name, value.name)


def _named(graph: onnx.GraphProto) -> list[Any]:
    return [*graph.input, *graph.output, *graph.initializer]


def find_squashing(graph: onnx.GraphProto, name: str) -> tuple[str, str] | None:
    """Return (operator that makes probabilities or classes of a value, its input), or None.

    A log-softmax does not count, because its softmax is that of the logits.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    while name in made_by:
        node = made_by[name]
        if node.op_type in _SQUASHING:
            return str(node.op_type), str(node.input[0])
        if node.op_type not in PASSING_ON:
            return None
        name = node.input[0]
    return None


def has_channels_last(shape: Shape) -> bool:
    """Return whether a shape is [batch, height, width, channels]; in doubt channels come first."""
    return len(shape) == _RANK and shape[3] in _CHANNELS and shape[1] not in _CHANNELS


def sides_of(shape: Shape) -> tuple[int | str, ...]:
    """Return (height, width)."""
    return tuple(shape[1:3] if has_channels_last(shape) else shape[2:4])


def width_axis(shape: Shape) -> int:
    """Return the axis along which a picture is mirrored."""
    return 2 if has_channels_last(shape) else 3


def name_free_axes(graph: onnx.GraphProto) -> None:
    """Give inputs' axes of no size (PaddlePaddle writes -1) a name instead, in place."""
    for value in graph.input:
        for number, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.HasField("dim_value") and axis.dim_value < 1:
                axis.dim_param = f"axis{number}"


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Return each axis of a value: its size, or its name if it is free."""
    axes = value.type.tensor_type.shape.dim
    return tuple(
        int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param or f"axis{number}"
        for number, axis in enumerate(axes)
    )
