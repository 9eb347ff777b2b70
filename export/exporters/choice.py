"""Chooses who translates: optimum where it is installed and knows the model, else `torch.onnx`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from export.errors import GraphError
from export.exporters.optimum_onnx import export_with_optimum, optimum_knows
from export.exporters.torch_onnx import export_with_torch
from export.external import OnnxFile, load_onnx
from export.graphs import strip_traces
from train.models import Checkpoint

Exporter = Literal["auto", "optimum", "torch"]
"""What a command line offers."""


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

    Traces of the source (stack traces, paths) are stripped, so that the bytes do not depend on
    where the export ran.

    Args:
        checkpoint: The classifier.
        example: Inputs of the model by name, at least two rows of them.
        folder: Where large weights go.
        free: Name of each axis, the same for all inputs, that may have any size.
        takes: Inputs that the graph may have: optimum gives a model some that the example has not.
        exporter: `auto` falls back on `torch.onnx` where optimum fails, and says so.

    Raises:
        DependencyError: optimum was asked for and is not installed.
        GraphError: The model cannot be translated.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = _exported(checkpoint, example, free, exporter, Path(scratch))
        loaded = load_onnx(file, folder)
    graph = loaded.model.graph
    names, outputs = ([value.name for value in values] for values in (graph.input, graph.output))
    if not set(names) <= set(takes) or outputs != ["logits"]:
        raise GraphError(
            f"expected a graph from {', '.join(takes)} to logits, got one from {', '.join(names)} "
            f"to {', '.join(outputs)}: use --exporter torch"
        )
    strip_traces(loaded.model)
    return loaded


def _exported(
    checkpoint: Checkpoint,
    example: Mapping[str, Tensor],
    free: Mapping[int, str],
    exporter: Exporter,
    folder: Path,
) -> Path:
    if exporter == "optimum" or (exporter == "auto" and optimum_knows(checkpoint)):
        try:
            return export_with_optimum(checkpoint, folder)
        except GraphError as error:
            if exporter == "optimum":
                raise
            print(f"note: {error}; torch.onnx is used instead", file=sys.stderr)
    file = folder / "torch.onnx"
    export_with_torch(checkpoint, example, free, file)
    return file
