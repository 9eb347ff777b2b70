"""An existing ONNX classifier as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edge_runtime.files import one_line
from export.commands.build import SourceSettings
from export.errors import GraphError
from export.external import INSIDE_BYTES, load_onnx
from export.graphs import copy_model, find_squashing
from export.session import open_graph
from export.sources.foreign import (
    ForeignSource,
    Original,
    flatten,
    is_class_shape,
    is_pixel_shape,
    prepare,
)

_ELEMENTS = {"tensor(float)": TensorProto.FLOAT, "tensor(float16)": TensorProto.FLOAT16}


def open_onnx(
    path: Path, settings: SourceSettings, scratch: Path, *, inside_bytes: int = INSIDE_BYTES
) -> ForeignSource:
    """Open an ONNX file, and check that ONNX Runtime can run it.

    Weights that are larger than `inside_bytes` together go into a file in `scratch`.

    Raises:
        ExportError: `prepare` refuses the model, or ONNX Runtime does not take the file.
    """
    loaded = load_onnx(path, scratch, inside_bytes=inside_bytes)
    model, weights = loaded.model, loaded.weights
    logits = settings.logits or _only_candidate(model, open_graph(model, weights, place=path), path)
    _require_value(model, logits, path)
    outputs = open_graph(_with_output(model, logits), weights, place=path).get_outputs()
    value = next(output for output in outputs if output.name == logits)
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
            (values,) = session.run([output], {session.get_inputs()[0].name: pixels})
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            raise GraphError(
                f"expected {path} to take {pixels.dtype} {list(pixels.shape)}, it failed "
                f"({one_line(error, 200)}): export it with a dynamic batch axis"
            ) from None
        return values

    original = Original(
        place=path,
        file=loaded,
        logits=logits,
        element=_ELEMENTS[value.type],
        run=run,
        runs_in="the ONNX file",
    )
    return prepare(original, settings)


def _only_candidate(model: onnx.ModelProto, session: Any, path: Path) -> str:
    """Return the one output that can be logits."""
    outputs = session.get_outputs()
    floats = [o for o in outputs if o.type in _ELEMENTS]
    fitting = [o.name for o in floats if is_class_shape(o.shape or ())]
    # A binary model may give its single logit without an axis of classes.
    fitting = fitting or [o.name for o in floats if is_pixel_shape(o.shape or ())]
    if len(fitting) == 1:
        return str(fitting[0])
    expected = f"expected one output of logits, float [batch, classes], in {path}, got"
    if fitting:
        raise GraphError(f"{expected} several ({', '.join(fitting)}): name it with --logits")
    shapes = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    squashed = [find_squashing(model.graph, output.name) for output in outputs]
    hint = next((f" {name}" for _, name in filter(None, squashed)), "")
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
    cast = name + "/float32"
    model.graph.node.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
    del model.graph.output[:]  # an output of half precision would be rounded all the same
    model.graph.output.add().name = cast
    return cast
