"""Translates a checkpoint's model to ONNX, with optimum or with `torch.onnx`.

optimum knows the usual architectures. Its ONNX part, optimum-onnx, requires transformers below
4.58 and does not import with a newer one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edge_runtime import contract
from edge_runtime.errors import DependencyError
from edge_runtime.files import one_line, scratch_folder
from export.errors import GraphError
from export.external import OnnxFile, load_onnx
from export.graphs import strip_traces
from train.models import Checkpoint

Exporter = Literal["auto", "optimum", "torch"]
OPSET = 18
_SUMMARY = "## Exception summary"
_COLOUR = re.compile(r"\x1b\[\d*m")


def export_logits(
    checkpoint: Checkpoint,
    example: Mapping[str, Tensor],
    folder: Path,
    *,
    free: Mapping[int, str],
    takes: Sequence[str],
    exporter: Exporter = "auto",
) -> OnnxFile:
    """Return a graph from a classifier's inputs to its logits [batch, classes].

    Traces of the source (stack traces, paths) are removed, so that the bytes do not depend on
    where the export ran.

    Args:
        checkpoint: The classifier.
        example: Inputs of the model by name, at least two rows.
        folder: Target folder of large weights.
        free: Name of each axis, the same for all inputs, that may have any size.
        takes: Inputs that the graph may have; optimum gives some models more than the example has.
        exporter: `auto` falls back on `torch.onnx` if optimum fails, and prints a note.

    Raises:
        DependencyError: `exporter` is `optimum`, which is not installed.
        GraphError: The model cannot be translated.
    """
    with scratch_folder(folder / "graph") as scratch:
        loaded = load_onnx(_export(checkpoint, example, free, exporter, scratch), folder)
    graph = loaded.model.graph
    names, outputs = ([value.name for value in values] for values in (graph.input, graph.output))
    if not set(names) <= set(takes) or outputs != ["logits"]:
        raise GraphError(
            f"expected a graph from {', '.join(takes)} to logits, got one from {', '.join(names)} "
            f"to {', '.join(outputs)}: use --exporter torch"
        )
    strip_traces(loaded.model)
    return loaded


def _export(
    checkpoint: Checkpoint,
    example: Mapping[str, Tensor],
    free: Mapping[int, str],
    exporter: Exporter,
    folder: Path,
) -> Path:
    if exporter == "optimum" or (exporter == "auto" and optimum_knows(checkpoint)):
        try:
            return _export_with_optimum(checkpoint, folder)
        except GraphError as error:
            if exporter == "optimum":
                raise
            print(f"note: {error}; torch.onnx is used instead", file=sys.stderr)
    return _export_with_torch(checkpoint, example, free, folder)


def optimum_knows(checkpoint: Checkpoint) -> bool:
    """Return whether optimum is installed and supports the architecture."""
    try:
        from optimum.exporters.onnx import onnx_export_from_model  # noqa: F401 - may fail to import
        from optimum.exporters.tasks import TasksManager
    except ImportError:
        return False
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(
            checkpoint.model.config.model_type.replace("_", "-"),
            "onnx",
            library_name="transformers",
        )
    except KeyError:
        return False
    return contract.TASKS[checkpoint.kind] in tasks


def _export_with_optimum(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write a graph from the model's inputs to `logits` into an empty folder, return its file.

    Raises:
        DependencyError: optimum is not installed, or does not support this transformers.
        GraphError: optimum cannot translate the model.
    """
    try:
        from optimum.exporters.onnx import onnx_export_from_model
    except ImportError:
        raise DependencyError("optimum-onnx", "--exporter optimum", "optimum") from None
    try:
        with quiet():
            onnx_export_from_model(
                checkpoint.model,
                folder,
                opset=OPSET,
                task=contract.TASKS[checkpoint.kind],
                do_validation=False,  # decisions are compared later, as for every graph
            )
    except Exception as error:  # noqa: BLE001 - it runs the model's own code
        raise GraphError(
            f"expected a model that optimum can export, {type(checkpoint.model).__name__} failed "
            f"({type(error).__name__}: {one_line(error, 200)}): use --exporter torch"
        ) from None
    return folder / "model.onnx"


class _Logits(nn.Module):
    """A model whose one output is its logits."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def _export_with_torch(
    checkpoint: Checkpoint, example: Mapping[str, Tensor], free: Mapping[int, str], folder: Path
) -> Path:
    """Write a graph from the example's names to `logits` into a folder, return its file.

    Raises:
        GraphError: The model cannot be traced.
    """
    file = folder / "torch.onnx"
    model = _Logits(checkpoint.model, tuple(example)).eval()
    axes = {axis: torch.export.Dim(name) for axis, name in free.items()}
    try:
        trace(
            model,
            file,
            tuple(example.values()),
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes={"inputs": tuple(dict(axes) for _ in example)},
        )
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in example.items())
        raise GraphError(
            f"expected a model that torch.onnx can trace on {sizes}, "
            f"{type(checkpoint.model).__name__} failed ({cause_of(error)}): try another torch, or "
            "fix the model"
        ) from None
    return file


def trace(module: Any, file: Path, *inputs: Any, opset: int = OPSET, **options: Any) -> None:
    """Write the graph that `torch.onnx` makes of a module with example inputs, or of a program."""
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            module, *inputs, dynamo=True, opset_version=opset, verbose=False, **options
        )
    assert program is not None  # noqa: S101 - dynamo always returns a program
    program.save(file)


def cause_of(error: Exception) -> str:
    """Return the cause in an exporter's report on one line, without the hints in front of it."""
    return one_line(_COLOUR.sub("", str(error)).rpartition(_SUMMARY)[2], 200)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence logs, warnings and prints of exporters and quantizers.

    They report their progress and their own deprecations. What matters to the user is in the
    errors that they raise.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
