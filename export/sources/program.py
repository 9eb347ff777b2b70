"""A program of `torch.export` as a source; `program_file` opens it without running its code."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from edge_runtime.files import one_line
from export.commands.build import SourceSettings
from export.errors import GraphError
from export.exporters import trace
from export.external import OnnxFile, load_onnx
from export.graphs import has_halves, shape_of
from export.sources.foreign import ForeignSource, Original, prepare
from export.sources.heads import Head, read_head
from export.sources.program_file import read_program
from export.sources.reference import HALF_TOLERANCE, TOLERANCE
from export.sources.shapes import flatten, is_class_shape, is_pixel_shape


def open_program(path: Path, settings: SourceSettings, scratch: Path) -> ForeignSource:
    """Open a program that `torch.export.save` wrote, and translate it to ONNX in `scratch`.

    Raises:
        ExportError: `prepare` refuses the model, the file is not such a program, or ONNX lacks one
            of its operators.
    """
    program = read_program(path)
    with _explained(path):
        is_single = _has_single_row(program, path)
        index = _find_logits(program, settings.logits, path)
        translated = _translate(program, path, scratch)
        output = translated.model.graph.output[index]
        is_pixel = is_pixel_shape(shape_of(output))
        head = _read_head(translated, output.name, settings)
        module = program.module()

    def run(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with _explained(path), torch.inference_mode():
            rows = torch.from_numpy(pixels)
            parts = rows.split(1) if is_single else (rows,)
            made = [pytree.tree_leaves(module(part))[index] for part in parts]
        values: npt.NDArray[Any] = torch.cat(made).float().numpy()
        return values.reshape(len(values), -1) if is_pixel else values

    original = Original(
        place=path,
        file=dataclasses.replace(translated, files=(path,)),
        logits=flatten(translated.model, output.name) if is_pixel else output.name,
        element=output.type.tensor_type.elem_type,
        run=run,
        runs_in="PyTorch",
        # On a CPU, ONNX Runtime computes half precision in float32.
        head=head,
        tolerance=HALF_TOLERANCE if has_halves(translated.model.graph) else TOLERANCE,
    )
    return prepare(original, settings)


def _read_head(file: OnnxFile, name: str, settings: SourceSettings) -> Head | None:
    """Return what the translated graph says of an output, unless the user says it."""
    if settings.scores is not None:
        return None
    shape = next(shape_of(o) for o in file.model.graph.output if o.name == name)
    columns = 1 if len(shape) == 1 else shape[-1]
    return read_head(
        file.model.graph,
        name,
        columns=columns if isinstance(columns, int) else None,
        can_cut=False,  # what runs is the program, to its end
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what a damaged program raises into an error that names its file."""
    try:
        yield
    except GraphError:
        raise
    except Exception as error:  # noqa: BLE001 - PyTorch raises nearly anything
        raise GraphError(
            f"expected a program that runs in {path}, it failed ({one_line(error, 200)}): export "
            "it again with torch.export.export"
        ) from None


def _has_single_row(program: Any, path: Path) -> bool:
    """Return whether a program has a fixed batch of one.

    Raises:
        GraphError: It takes several inputs, or has a larger fixed batch.
    """
    inputs = _values(program, "placeholder", program.graph_signature.user_inputs)
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor) or not inputs[0].ndim:
        raise GraphError(
            f"expected a program of one tensor in {path}, it takes {len(inputs)} inputs: export a "
            "module whose forward takes only the pictures"
        )
    rows: Any = inputs[0].shape[0]  # a symbol where it is free
    if isinstance(rows, int) and rows != 1:
        raise GraphError(
            f"expected a free batch axis in {path}, the program always takes {rows}: "
            'export it with dynamic_shapes=({0: torch.export.Dim("batch")},)'
        )
    return isinstance(rows, int)


def _find_logits(program: Any, wanted: str | None, path: Path) -> int:
    """Return the index of the logits among the flat outputs."""
    signature = program.graph_signature.user_outputs
    values = _values(program, None, signature)
    names = _names(program, signature)
    fitting = [i for i, value in enumerate(values) if _is_candidate(value)]
    if wanted is not None:
        matching = [i for i in range(len(names)) if wanted in {names[i], str(signature[i])}]
        if len(matching) == 1:
            return matching[0]
        raise GraphError(
            f"expected --logits to name an output of {path}, got {wanted!r}: name one of its "
            f"outputs {', '.join(names)}"
        )
    if len(fitting) == 1:
        return fitting[0]
    got = f"several ({', '.join(names[i] for i in fitting)})" if fitting else "none"
    raise GraphError(
        f"expected one output of logits, float [batch, classes], in {path}, got {got}: name it "
        f"with --logits (outputs: {', '.join(names)})"
    )


def _is_candidate(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and is_class_shape(value.shape)
        and value.is_floating_point()
    )


def _values(program: Any, operation: str | None, names: Sequence[Any]) -> list[Any]:
    """Return the tensors with these names in the program, without data."""
    known = {
        node.name: node.meta.get("val")
        for node in program.graph.nodes
        if operation is None or node.op == operation
    }
    return [known.get(name) for name in names]


def _names(program: Any, signature: Sequence[Any]) -> list[str]:
    """Return the keys of the outputs if the module returned a dict, else the names of nodes."""
    tree = pytree.tree_unflatten(list(range(len(signature))), program.call_spec.out_spec)
    paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    keys = [str(getattr(path[-1], "key", "")) if path else "" for path in paths]
    return [key or str(name) for key, name in zip(keys, signature, strict=True)]


def _translate(program: Any, path: Path, scratch: Path) -> OnnxFile:
    file = scratch / "program.onnx"
    try:
        trace(program, file)
    except Exception as error:  # noqa: BLE001 - translating raises torch's own unrelated classes
        raise GraphError(
            f"expected a program that torch.onnx can translate in {path}, it failed "
            f"({one_line(error, 200)}): export an ONNX file yourself and give --onnx"
        ) from None
    loaded = load_onnx(file, scratch)
    for written in loaded.files:  # the weights are now in the graph, or in another file
        written.unlink()
    return loaded
