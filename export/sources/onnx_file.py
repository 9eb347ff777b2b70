"""Somebody else's ONNX classifier as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from export.commands.build import BuildSettings
from export.errors import GraphError
from export.external import INSIDE_BYTES, load_onnx
from export.graphs import copy_of, squashed_by
from export.session import open_graph
from export.sources.foreign import ForeignSource, flatten, is_of_classes, is_of_one_pixel
from export.sources.pixels import Original, Run

_ELEMENTS = {"tensor(float)": TensorProto.FLOAT, "tensor(float16)": TensorProto.FLOAT16}


def open_onnx(
    path: Path, settings: BuildSettings, scratch: Path, *, inside_bytes: int = INSIDE_BYTES
) -> ForeignSource:
    """Open an ONNX file, and hold it to what ONNX Runtime can run.

    Args:
        path: The file; external weights beside it.
        settings: Logits, labels and processor.
        scratch: A folder for weights that stay outside the graph.
        inside_bytes: How large those are at least.

    Raises:
        ExportError: See `ForeignSource.of`; or ONNX Runtime does not take the file.
    """
    loaded = load_onnx(path, scratch, inside_bytes=inside_bytes)
    model, weights = loaded.model, loaded.weights
    logits = settings.logits or _only_candidate(model, open_graph(model, weights, place=path), path)
    _require_value(model, logits, path)
    found = _value(open_graph(_with_output(model, logits), weights, place=path), logits)
    if found.type not in _ELEMENTS:
        raise GraphError(
            f"expected float logits in {path}, {logits!r} is {found.type}: name another value "
            "with --logits"
        )
    if is_of_one_pixel(found.shape or ()):
        logits = flatten(model, logits)
    opened = _with_output(model, logits)
    output = _read_in_float32(opened, logits, found.type)
    original = Original(
        place=path,
        files=loaded.files,
        model=model,
        logits=logits,
        element=_ELEMENTS[found.type],
        weights=weights,
        run=_runner(open_graph(opened, weights, place=path), output, path),
        runs_in="the ONNX file",
    )
    return ForeignSource.of(original, settings)


def _runner(session: Any, output: str, path: Path) -> Run:
    inputs = [value.name for value in session.get_inputs()]

    def run(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            (values,) = session.run([output], {inputs[0]: pixels})
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            reason = " ".join(str(error).split())[:200]
            raise GraphError(
                f"expected {path} to take {pixels.dtype} {list(pixels.shape)}, it failed "
                f"({reason}): export it with a dynamic batch axis"
            ) from None
        logits: npt.NDArray[Any] = values
        return logits

    return run


def _only_candidate(model: onnx.ModelProto, session: Any, path: Path) -> str:
    """Return the one output that can be logits."""
    outputs = session.get_outputs()
    fitting = [o.name for o in outputs if o.type in _ELEMENTS and is_of_classes(o.shape or ())]
    if len(fitting) == 1:
        return str(fitting[0])
    expected = f"expected one output of logits, float [batch, classes], in {path}, got"
    if fitting:
        raise GraphError(f"{expected} several ({', '.join(fitting)}): name it with --logits")
    shapes = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    made = [squashed_by(model.graph, output.name) for output in outputs]
    hint = next((f" {name}" for _, name in filter(None, made)), "")
    raise GraphError(
        f"{expected} none among {shapes}: name a value inside the graph with --logits{hint}"
    )


def _require_value(model: onnx.ModelProto, name: str, path: Path) -> None:
    if not any(name in node.output for node in model.graph.node):
        outputs = ", ".join(output.name for output in model.graph.output)
        raise GraphError(
            f"expected --logits to name a value in {path}, it has no {name!r}: its outputs are "
            f"{outputs}"
        )


def _with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy with a value from inside the graph among its outputs."""
    copy = copy_of(model)
    if name not in {output.name for output in copy.graph.output}:
        copy.graph.output.add().name = name
    return copy


def _value(session: Any, name: str) -> Any:
    return next(output for output in session.get_outputs() if output.name == name)


def _read_in_float32(model: onnx.ModelProto, name: str, kind: str) -> str:
    """Return the name under which a value is float32, in place.

    ONNX Runtime works half precision out in float32 on a CPU, and where a cast to float32 follows
    it leaves out the rounding. The gate begins with such a cast, so the original has to have it.
    """
    if kind == "tensor(float)":
        return name
    cast = name + "/float32"
    model.graph.node.append(helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT))
    del model.graph.output[:]  # as one of them the value would be rounded all the same
    model.graph.output.add().name = cast
    return cast
