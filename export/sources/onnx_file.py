"""Somebody else's ONNX classifier as a source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from export.commands.build import BuildSettings
from export.errors import GraphError
from export.session import open_graph
from export.sources.external import load_onnx
from export.sources.foreign import ForeignSource, Original, Run

_ELEMENTS = {"tensor(float)": TensorProto.FLOAT, "tensor(float16)": TensorProto.FLOAT16}
_RANK = 2
_SIGNATURE = re.compile(r"/\S+\.(h|cc):\d+ .*?\) ")  # where in ONNX Runtime's own source it failed


def open_onnx(path: Path, settings: BuildSettings, scratch: Path) -> ForeignSource:
    """Open an ONNX file, and hold it to what ONNX Runtime can run.

    Args:
        path: The file; external weights beside it.
        settings: Logits, labels and processor.
        scratch: A folder for weights that stay outside the graph.

    Raises:
        ExportError: See `ForeignSource.of`; or ONNX Runtime does not take the file.
    """
    loaded = load_onnx(path, scratch)
    session = _session(loaded.model, loaded.weights, path)
    logits = settings.logits or _only_candidate(session, path)
    opened = _with_value(loaded.model, logits, path)
    kind = _type_of(_session(opened, loaded.weights, path), logits)
    output = _read_in_float32(opened, logits, kind)
    run = _runner(_session(opened, loaded.weights, path), output, path)
    original = Original(
        place=path,
        files=loaded.files,
        model=loaded.model,
        logits=logits,
        element=_ELEMENTS.get(kind, TensorProto.UNDEFINED),
        weights=loaded.weights,
        run=run,
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


def _session(model: onnx.ModelProto, weights: Path | None, path: Path) -> Any:
    try:
        return open_graph(model, weights)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        reason = _SIGNATURE.sub("", " ".join(str(error).split()))[:250]
        raise GraphError(
            f"expected a graph that ONNX Runtime {ort.__version__} takes in {path}, it does not "
            f"({reason}): export it with operators and an opset that it knows"
        ) from None


def _only_candidate(session: Any, path: Path) -> str:
    """Return the one output that can be logits."""
    outputs = session.get_outputs()
    fitting = [o.name for o in outputs if o.type in _ELEMENTS and len(o.shape or ()) == _RANK]
    if len(fitting) == 1:
        return str(fitting[0])
    shapes = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    came = f"several ({', '.join(fitting)})" if fitting else f"none among {shapes}"
    raise GraphError(
        f"expected one output of logits, float [batch, classes], in {path}, got {came}: name it "
        "with --logits"
    )


def _with_value(model: onnx.ModelProto, name: str, path: Path) -> onnx.ModelProto:
    """Return a copy with a value from inside the graph among its outputs."""
    if not any(name in node.output for node in model.graph.node):
        outputs = ", ".join(output.name for output in model.graph.output)
        raise GraphError(
            f"expected --logits to name a value in {path}, it has no {name!r}: its outputs are "
            f"{outputs}"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if name not in {output.name for output in copy.graph.output}:
        copy.graph.output.add().name = name
    return copy


def _type_of(session: Any, name: str) -> str:
    return next(str(output.type) for output in session.get_outputs() if output.name == name)


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
