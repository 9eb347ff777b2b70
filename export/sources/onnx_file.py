"""Somebody else's ONNX classifier as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime as ort

from export.commands.build import BuildSettings
from export.errors import GraphError
from export.session import open_graph
from export.sources.external import load_onnx
from export.sources.foreign import ForeignSource, Original

_FLOATS = ("tensor(float)", "tensor(float16)")
_RANK = 2


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
    found = _session(loaded.model, loaded.weights, path)
    logits = settings.logits or _only_candidate(found, path)
    session = found
    if logits not in {output.name for output in found.get_outputs()}:
        session = _session(_with_output(loaded.model, logits, path), loaded.weights, path)
    name = session.get_inputs()[0].name if session.get_inputs() else ""

    def run(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            (values,) = session.run([logits], {name: pixels})
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            reason = " ".join(str(error).split())[:200]
            raise GraphError(
                f"expected {path} to take {pixels.dtype} {list(pixels.shape)}, it failed "
                f"({reason}): export it with a dynamic batch axis"
            ) from None
        return values

    original = Original(
        path, loaded.files, loaded.model, logits, loaded.weights, run, "the ONNX file"
    )
    return ForeignSource.of(original, settings)


def _session(model: onnx.ModelProto, weights: Path | None, path: Path) -> Any:
    try:
        return open_graph(model, weights)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected a graph that ONNX Runtime {ort.__version__} takes in {path}, it does not "
            f"({reason}): export it with operators and an opset that it knows"
        ) from None


def _only_candidate(session: Any, path: Path) -> str:
    """Return the one output that can be logits."""
    outputs = session.get_outputs()
    fitting = [o.name for o in outputs if o.type in _FLOATS and len(o.shape or ()) == _RANK]
    if len(fitting) == 1:
        return str(fitting[0])
    shapes = ", ".join(f"{o.name} {o.type} {o.shape}" for o in outputs)
    came = f"several ({', '.join(fitting)})" if fitting else f"none among {shapes}"
    raise GraphError(
        f"expected one output of logits, float [batch, classes], in {path}, got {came}: name it "
        "with --logits"
    )


def _with_output(model: onnx.ModelProto, name: str, path: Path) -> onnx.ModelProto:
    """Return a copy that also gives a value from inside the graph."""
    if not any(name in node.output for node in model.graph.node):
        outputs = ", ".join(output.name for output in model.graph.output)
        raise GraphError(
            f"expected --logits to name a value in {path}, it has no {name!r}: its outputs are "
            f"{outputs}"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.add().name = name
    return copy
