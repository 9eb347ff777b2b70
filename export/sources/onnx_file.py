"""An existing ONNX classifier as a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edge_runtime.files import one_line
from export.commands.build import SourceSettings
from export.errors import GraphError
from export.external import INSIDE_BYTES, OnnxFile, load_onnx
from export.graphs import copy_model, drop_weights_from_inputs, find_squashing, name_free_axes
from export.session import open_graph
from export.sources.columns import feeds_of
from export.sources.foreign import ForeignSource, Original, prepare
from export.sources.heads import Head, Zipped, read_head, unzip
from export.sources.refusals import refuse_detector, refuse_many_answers, refuse_regression
from export.sources.shapes import flatten, is_class_shape, is_pixel_shape

_DOUBLE = "tensor(double)"
_ELEMENTS = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    _DOUBLE: TensorProto.FLOAT,  # by a cast
}
_RANK = 2


def open_onnx(
    path: Path, settings: SourceSettings, scratch: Path, *, inside_bytes: int = INSIDE_BYTES
) -> ForeignSource:
    """Open an ONNX file, and check that ONNX Runtime can run it.

    Weights that are larger than `inside_bytes` together go into a file in `scratch`.

    Raises:
        ExportError: `prepare` refuses the model, or ONNX Runtime does not take the file.
    """
    try:
        return _open(path, settings, scratch, inside_bytes)
    except UnicodeError:  # protobuf looks at texts only when they are copied
        raise GraphError(
            f"expected names in UTF-8 in {path}, got other bytes: copy or export it again"
        ) from None


def _open(path: Path, settings: SourceSettings, scratch: Path, inside_bytes: int) -> ForeignSource:
    loaded = load_onnx(path, scratch, inside_bytes=inside_bytes)
    model, weights = loaded.model, loaded.weights
    drop_weights_from_inputs(model.graph)
    name_free_axes(model.graph)
    zipped = unzip(model.graph)
    outputs = open_graph(model, weights, place=path).get_outputs()
    if settings.logits is None or settings.logits in {output.name for output in outputs}:
        refuse_detector(model.graph, path)
    named = settings.logits or _only_candidate(model, outputs, list(zipped), path)
    dictionary = zipped.get(named)
    named = dictionary.value if dictionary else named
    _require_value(model, named, path)
    head = _read_head(loaded, named, dictionary, settings, path)
    logits = head.value
    value = _describe(model, logits, weights, path)
    if value.type not in _ELEMENTS:
        raise GraphError(
            f"expected float logits in {path}, {logits!r} is {value.type}: name another value with "
            "--logits"
        )
    if is_pixel_shape(value.shape or ()):
        logits = flatten(model, logits)
    opened = _with_output(model, logits)
    output = _cast_to_float32(opened, logits, value.type)
    session = open_graph(opened, weights, place=path)

    def run(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values: npt.NDArray[Any]
        try:
            (values,) = session.run([output], feeds_of(session.get_inputs(), pixels))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            raise GraphError(
                f"expected {path} to take {pixels.dtype} {list(pixels.shape)}, it failed "
                f"({one_line(error, 200)}): export it with a dynamic batch axis"
            ) from None
        return values

    if value.type == _DOUBLE:
        logits = _append_cast(model, logits)
    original = Original(
        place=path,
        file=loaded,
        logits=logits,
        element=_ELEMENTS[value.type],
        run=run,
        runs_in="the ONNX file",
        head=head,
    )
    return prepare(original, settings)


def _read_head(
    file: OnnxFile, name: str, zipped: Zipped | None, settings: SourceSettings, path: Path
) -> Head:
    """Return what the graph says of a value; what the user says goes before it.

    Raises:
        GraphError: It is the number that a regression predicts.
    """
    refuse_regression(file.model, name, path)
    described = _describe(file.model, name, file.weights, path)
    shape = list(described.shape or ())
    if zipped is None and not _is_row(shape):
        refuse_many_answers([described], path)
    columns = 1 if len(shape) == 1 else shape[-1] if len(shape) == _RANK else None
    head = read_head(
        file.model.graph,
        name,
        columns=columns,
        can_cut=settings.scores is None,
        zipped=zipped,
    )
    if settings.scores is not None:
        return dataclasses.replace(head, value=name, scores=None, reason="")
    if head.value != name:
        before = _describe(file.model, head.value, file.weights, path)
        if before.type not in _ELEMENTS or not _is_row(before.shape or ()):
            return dataclasses.replace(head, value=name, scores="probabilities")
    return head


def _is_row(shape: Sequence[Any]) -> bool:
    return is_class_shape(shape) or is_pixel_shape(shape)


def _describe(model: onnx.ModelProto, name: str, weights: Path | None, path: Path) -> Any:
    """Return the type and shape of a value, as ONNX Runtime infers them."""
    outputs = open_graph(_with_output(model, name), weights, place=path).get_outputs()
    return next(output for output in outputs if output.name == name)


def _only_candidate(
    model: onnx.ModelProto, outputs: Sequence[Any], zipped: Sequence[str], path: Path
) -> str:
    """Return the one output that can be logits or probabilities."""
    if len(zipped) == 1:
        return zipped[0]
    floats = [o for o in outputs if o.type in _ELEMENTS]
    fitting = [o.name for o in floats if is_class_shape(o.shape or ())]
    # A binary model may give its single logit without an axis of classes.
    fitting = fitting or [o.name for o in floats if is_pixel_shape(o.shape or ())]
    squashed = [find_squashing(model.graph, name) for name in fitting]
    # Of logits and their own probabilities the logits are better.
    made = {
        name for name, found in zip(fitting, squashed, strict=True) if found and found[1] in fitting
    }
    fitting = [name for name in fitting if name not in made]
    if len(fitting) == 1:
        return str(fitting[0])
    expected = f"expected one output of logits, float [batch, classes], in {path}, got"
    if fitting:
        raise GraphError(f"{expected} several ({', '.join(fitting)}): name it with --logits")
    refuse_many_answers(outputs, path)
    shapes = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    hints = filter(None, (find_squashing(model.graph, output.name) for output in outputs))
    hint = next((f" {name}" for _, name in hints), "")
    raise GraphError(
        f"{expected} none among {shapes}: name a value inside the graph with --logits{hint}"
    )


def _require_value(model: onnx.ModelProto, name: str, path: Path) -> None:
    if not any(name in node.output for node in model.graph.node):
        outputs = ", ".join(output.name for output in model.graph.output)
        raise GraphError(
            f"expected --logits to name a value in {path}, got {name!r}: name another, e.g. of its "
            f"outputs {outputs}"
        )


def _with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy with a value from inside the graph among its outputs."""
    copy = copy_model(model)
    if name not in {output.name for output in copy.graph.output}:
        copy.graph.output.add().name = name
    return copy


def _cast_to_float32(model: onnx.ModelProto, name: str, kind: str) -> str:
    """Return the name under which a value is float32, in place.

    On a CPU, ONNX Runtime computes half precision in float32, and omits the rounding in front of a
    cast to float32. The gate begins with such a cast, so the original needs one too.
    """
    if kind == "tensor(float)":
        return name
    cast = _append_cast(model, name)
    del model.graph.output[:]  # an output of half precision would be rounded all the same
    model.graph.output.add().name = cast
    return cast


def _append_cast(model: onnx.ModelProto, name: str) -> str:
    """Add a value as float32 to a graph, in place, and return its name."""
    cast = name + "/float32"
    model.graph.node.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
    return cast
