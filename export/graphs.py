"""Surgery on ONNX graphs that did not come from this toolkit's own exporter.

Everything works in place, looks into subgraphs, and leaves weights in external files where they
are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper, version_converter

from edge_runtime import contract
from export.errors import GraphError

# MERGEDOC export/layout.py: "Which axis of a model's pictures is which: PyTorch has the channels first, TensorFlow last."

LEAST_OPSET = 13
"""The first in which Softmax, Squeeze and ReduceSum are what the gate takes them for."""
MESSAGE_BYTES = (1 << 31) - (1 << 24)
"""What a protobuf message takes; writing a larger one fails nowhere, reading it does."""
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
_THROUGH = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "QuantizeLinear", "DequantizeLinear"}
)
_SQUASHING = frozenset({"Softmax", "Sigmoid", "ArgMax"})
_DEFAULT_DOMAINS = ("", "ai.onnx")

_RANK = 4
_CHANNELS = frozenset({1, 3})
Shape = Sequence[int | str]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every name that a node or its subgraphs read, the subgraphs' own included."""
    yield from node.input
    for graph in subgraphs(node):
        yield from (output.name for output in graph.output)
        for inner in graph.node:
            yield from read_by(inner)


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor that a graph stores: initializers and constants, at any depth."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
        for inner in subgraphs(node):
            yield from tensors(inner)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of its own; external weights stay where they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def serialized(model: onnx.ModelProto, *, limit: int = MESSAGE_BYTES) -> bytes:
    """Return the bytes of a graph.

    Raises:
        GraphError: They are more than can be read again.
    """
    require_size(model, limit=limit)
    return bytes(model.SerializeToString(deterministic=True))


def require_size(model: onnx.ModelProto, *, limit: int = MESSAGE_BYTES) -> None:
    """Raise `GraphError` where a graph holds more weights than a protobuf message takes."""
    size = model.ByteSize()
    if size >= limit:
        raise GraphError(
            f"expected a graph under {limit / 1e9:.1f} GB, got {size / 1e9:.1f} GB with its "
            "weights: save it as ONNX with external data and give --onnx"
        )


def has_halves(graph: onnx.GraphProto) -> bool:
    """Return whether a graph stores float16."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in tensors(graph))


def has_external_weights(model: onnx.ModelProto) -> bool:
    """Return whether a tensor lies in another file."""
    return any(t.data_location == TensorProto.EXTERNAL for t in tensors(model.graph))


def check_graph(model: onnx.ModelProto) -> None:
    """Hold a graph to the ONNX standard.

    Raises:
        GraphError: It is too large.
        onnx.checker.ValidationError: It is none.
    """
    require_size(model)
    # The checker looks for external files in the working directory; ONNX Runtime, which runs every
    # graph before it is written, knows where they are.
    if not has_external_weights(model):
        onnx.checker.check_model(model)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a graph uses; 0 where it names none."""
    versions = [o.version for o in model.opset_import if o.domain in _DEFAULT_DOMAINS]
    return max(versions, default=0)


def raise_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """Return the graph in at least that version of the standard operators.

    Raises:
        GraphError: It cannot be converted.
    """
    if opset_of(model) >= least:
        return model
    try:
        converted = version_converter.convert_version(model, least)
        if not converted.functions:  # the converter leaves them out
            converted.functions.extend(model.functions)
    except Exception as error:  # noqa: BLE001 - the converter raises RuntimeError and its own
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected a graph that converts from opset {opset_of(model)} to {least}, which the "
            f"fused preprocessing needs ({reason}): export it at {least}, or use --preprocessing "
            "none"
        ) from None
    return converted


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove what says where a graph was made (stack traces, paths), and inferred shapes."""
    model.doc_string = ""
    del model.metadata_props[:]
    _strip(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            _strip_node(node)


def _strip(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for node in graph.node:
        _strip_node(node)
    for value in _named(graph):
        value.doc_string = ""
        del value.metadata_props[:]


def _strip_node(node: onnx.NodeProto) -> None:
    node.doc_string = ""
    del node.metadata_props[:]
    for graph in subgraphs(node):
        _strip(graph)


def drop_weights_from_inputs(graph: onnx.GraphProto) -> None:
    """Make initializers constants; old exporters list every weight as an input as well."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in weights]
    _set(graph.input, kept)


def keep_output(graph: onnx.GraphProto, name: str, element: int, classes: int) -> None:
    """Make a value float [batch, classes] the one output, and drop what it does not depend on."""
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(name, element, ["batch", classes]))
    needed = {name}
    kept: list[onnx.NodeProto] = []
    sort_nodes(graph)
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(read_by(node))
    _set(graph.node, kept[::-1])
    _set(graph.initializer, [t for t in graph.initializer if t.name in needed])
    _set(graph.sparse_initializer, [t for t in graph.sparse_initializer if t.values.name in needed])


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes in an order they can run in, as the standard demands and few tools keep to.

    Raises:
        GraphError: There is none.
    """
    waiting = list(graph.node)
    missing = {output for node in waiting for output in node.output if output}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if missing.isdisjoint(read_by(node)):
                ordered.append(node)
                missing.difference_update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise GraphError(f"expected a graph without a circle, {later[0].op_type} is in one")
        waiting = later
    _set(graph.node, ordered)


def _set(field: Any, values: list[Any]) -> None:
    del field[:]
    field.extend(values)


def rename_reserved(graph: onnx.GraphProto) -> None:
    """Give values that have a name of the gate contract another one."""
    names = {name: _PREFIX + name for name in _RESERVED}
    for value in _named(graph):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        _rename(node, names)


def _named(graph: onnx.GraphProto) -> list[Any]:
    return [*graph.input, *graph.output, *graph.initializer]


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in subgraphs(node):
        for value in _named(graph):
            value.name = names.get(value.name, value.name)
        for inner in graph.node:
            _rename(inner, names)


def squashed_by(graph: onnx.GraphProto, name: str) -> tuple[str, str] | None:
    """Return (the operator that makes probabilities or classes of a value, what it reads), or None.

    A log-softmax is none: its softmax is that of the logits.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    while name in made_by:
        node = made_by[name]
        if node.op_type in _SQUASHING:
            return str(node.op_type), str(node.input[0])
        if node.op_type not in _THROUGH:
            return None
        name = node.input[0]
    return None


def has_channels_last(shape: Shape) -> bool:
    """Tell [batch, height, width, channels]; a shape that says neither has its channels first."""
    return len(shape) == _RANK and shape[3] in _CHANNELS and shape[1] not in _CHANNELS


def sides_of(shape: Shape) -> tuple[int | str, ...]:
    """Return (height, width)."""
    return tuple(shape[1:3] if has_channels_last(shape) else shape[2:4])


def width_axis(shape: Shape) -> int:
    """Return the axis along which a picture is mirrored."""
    return 2 if has_channels_last(shape) else 3


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Return what a graph says of the axes of a value: a size, or a name where it is free."""
    axes = value.type.tensor_type.shape.dim
    return tuple(
        int(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param or f"axis{number}"
        for number, axis in enumerate(axes)
    )
