"""A program of `torch.export` as a source: timm, torchvision, own code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from export.commands.build import BuildSettings
from export.errors import GraphError
from export.exporters import OPSET, quiet
from export.external import OnnxFile, load_onnx
from export.graphs import has_halves
from export.layout import shape_of
from export.reference import HALF_TOLERANCE, TOLERANCE
from export.sources.foreign import ForeignSource
from export.sources.logits import flatten, is_of_classes, is_of_one_pixel
from export.sources.original import Original
from export.sources.pt2_archive import read_program


def open_program(path: Path, settings: BuildSettings, scratch: Path) -> ForeignSource:
    """Open a program, and translate it to ONNX.

    Args:
        path: What `torch.export.save` wrote.
        settings: Logits, labels and processor.
        scratch: A folder for the ONNX file.

    Raises:
        ExportError: See `ForeignSource.of`; or the file is no such program, or has operators that
            ONNX has not.
    """
    program = read_program(path)
    _require_free_batch(program, path)
    index = _find_logits(program, settings.logits, path)
    translated = _translate(program, path, scratch)
    output = translated.model.graph.output[index]
    is_pixel = is_of_one_pixel(shape_of(output))
    module = program.module()

    def run(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.inference_mode():
            logits = pytree.tree_leaves(module(torch.from_numpy(pixels)))[index]
        values: npt.NDArray[Any] = logits.float().numpy()
        return values.reshape(len(values), -1) if is_pixel else values

    original = Original(
        place=path,
        files=(path,),
        model=translated.model,
        logits=flatten(translated.model, output.name) if is_pixel else output.name,
        element=output.type.tensor_type.elem_type,
        weights=translated.weights,
        run=run,
        runs_in="PyTorch",
        # ONNX Runtime works half precision out in float32 on a CPU.
        tolerance=HALF_TOLERANCE if has_halves(translated.model.graph) else TOLERANCE,
    )
    return ForeignSource.of(original, settings)


def _require_free_batch(program: Any, path: Path) -> None:
    inputs = _values(program, "placeholder", program.graph_signature.user_inputs)
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor) or not inputs[0].ndim:
        raise GraphError(
            f"expected a program of one tensor in {path}, it takes {len(inputs)} inputs: export a "
            "module whose forward takes the pictures alone"
        )
    if isinstance(inputs[0].shape[0], int):
        raise GraphError(
            f"expected a free batch axis in {path}, the program always takes {inputs[0].shape[0]}: "
            'export it with dynamic_shapes=({0: torch.export.Dim("batch")},)'
        )


def _find_logits(program: Any, wanted: str | None, path: Path) -> int:
    """Return which of the flat outputs holds the logits."""
    signature = program.graph_signature.user_outputs
    values = _values(program, None, signature)
    names = _names(program, signature)
    fitting = [i for i, value in enumerate(values) if _is_candidate(value)]
    if wanted is not None:
        found = [i for i in range(len(names)) if wanted in {names[i], str(signature[i])}]
        if len(found) == 1:
            return found[0]
        raise GraphError(
            f"expected --logits to name an output of {path}, it has no {wanted!r}: its outputs are "
            f"{', '.join(names)}"
        )
    if len(fitting) == 1:
        return fitting[0]
    came = f"several ({', '.join(names[i] for i in fitting)})" if fitting else "none"
    raise GraphError(
        f"expected one output of logits, float [batch, classes], in {path}, got {came}: name it "
        f"with --logits (outputs: {', '.join(names)})"
    )


def _is_candidate(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor) and is_of_classes(value.shape) and value.is_floating_point()
    )


def _values(program: Any, operation: str | None, names: Sequence[Any]) -> list[Any]:
    """Return the tensors, without data, that the program calls so."""
    known = {
        node.name: node.meta.get("val")
        for node in program.graph.nodes
        if operation is None or node.op == operation
    }
    return [known.get(name) for name in names]


def _names(program: Any, signature: Sequence[Any]) -> list[str]:
    """Return how the outputs are called where the module returned a dict, else what makes them."""
    tree = pytree.tree_unflatten(list(range(len(signature))), program.call_spec.out_spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    keys = [str(getattr(path[-1], "key", "")) if path else "" for path in paths]
    return [key or str(name) for key, name in zip(keys, signature, strict=True)]


def _translate(program: Any, path: Path, scratch: Path) -> OnnxFile:
    file = scratch / "program.onnx"
    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
            assert made is not None  # noqa: S101 - narrows the type: with dynamo there is one
            made.save(file)
    except Exception as error:  # noqa: BLE001 - translating raises torch's own unrelated classes
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected a program that torch.onnx can translate in {path}, it failed ({reason}): "
            "export an ONNX file yourself and give --onnx"
        ) from None
    loaded = load_onnx(file, scratch)
    for written in loaded.files:  # its weights are in the graph now, or in another file
        written.unlink()
    return loaded
