"""Chooses who translates: optimum where it is installed and knows the model, else `torch.onnx`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Literal

import onnx
from torch import Tensor

from export.errors import GraphError
from export.exporters import optimum_onnx, torch_onnx
from export.graphs import strip_traces
from train.models import Checkpoint

Exporter = Literal["auto", "optimum", "torch"]
"""What a command line offers."""


def export_logits(
    checkpoint: Checkpoint,
    example: Mapping[str, Tensor],
    *,
    free: Mapping[int, str],
    takes: Sequence[str],
    exporter: Exporter = "auto",
) -> onnx.ModelProto:
    """Return a graph from a classifier's inputs to its logits [batch, classes].

    Traces of the source (stack traces, paths) are stripped, so that the bytes do not depend on
    where the export ran.

    Args:
        checkpoint: The classifier.
        example: Inputs of the model by name, at least two rows of them.
        free: Name of each axis, the same for all inputs, that may have any size.
        takes: Inputs that the graph may have: optimum gives a model some that the example has not.
        exporter: `auto` falls back on `torch.onnx` where optimum fails, and says so.

    Raises:
        DependencyError: optimum was asked for and is not installed.
        GraphError: The model cannot be translated.
    """
    model = _exported(checkpoint, example, free, exporter)
    names = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if not set(names) <= set(takes) or outputs != ["logits"]:
        raise GraphError(
            f"expected a graph from {', '.join(takes)} to logits, got one from {', '.join(names)} "
            f"to {', '.join(outputs)}: use --exporter torch"
        )
    strip_traces(model)
    return model


def _exported(
    checkpoint: Checkpoint,
    example: Mapping[str, Tensor],
    free: Mapping[int, str],
    exporter: Exporter,
) -> onnx.ModelProto:
    if exporter == "optimum" or (exporter == "auto" and optimum_onnx.knows(checkpoint)):
        try:
            return optimum_onnx.export(checkpoint)
        except GraphError as error:
            if exporter == "optimum":
                raise
            print(f"note: {error}; torch.onnx is used instead", file=sys.stderr)
    return torch_onnx.export(checkpoint, example, free)
