"""Chooses who translates: optimum where it is installed and knows the model, else `torch.onnx`."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from edge_runtime import contract
from edge_runtime.errors import DependencyError
from export.errors import GraphError

# MERGEDOC export/exporters/optimum_onnx.py: 'Translates with optimum, which knows the usual architectures and is not always to be had.\n\nIts ONNX part, optimum-onnx, holds transformers under 4.58; beside a newer one it does not import.\n'
# MERGEDOC export/exporters/torch_onnx.py: 'Translates with `torch.onnx`.'
# MERGEDOC export/exporters/__init__.py: "Translate a checkpoint's model to ONNX: behind one seam, optimum or `torch.onnx`."
from export.external import OnnxFile, load_onnx
from export.graphs import strip_traces
from train.models import Checkpoint

Exporter = Literal["auto", "optimum", "torch"]
"""What a command line offers."""

OPSET = 18
_SUMMARY = "## Exception summary"
_COLOUR = re.compile(r"\x1b\[\d*m")
__all__ = ["OPSET", "Exporter", "export_logits", "quiet"]


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


def optimum_knows(checkpoint: Checkpoint) -> bool:
    """Return whether optimum is installed and has the architecture."""
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


def export_with_optimum(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write a graph from the model's inputs to `logits`, and return its file.

    Args:
        checkpoint: The classifier.
        folder: An empty one; weights that are too large for the graph come beside it.

    Raises:
        DependencyError: optimum is not installed, or does not go with this transformers.
        GraphError: It cannot translate the model.
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
                do_validation=False,  # by decision, later, as every other graph
            )
    except Exception as error:  # noqa: BLE001 - it runs the model's own code
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected a model that optimum can export, {type(checkpoint.model).__name__} failed "
            f"({type(error).__name__}: {reason}): use --exporter torch"
        ) from None
    return folder / "model.onnx"


class _Logits(nn.Module):
    """Gives the logits alone, as the graph's one output."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def export_with_torch(
    checkpoint: Checkpoint, example: Mapping[str, Tensor], free: Mapping[int, str], file: Path
) -> None:
    """Write a graph from the example's names to `logits`; see `export_logits`.

    Raises:
        GraphError: The model cannot be traced.
    """
    model = _Logits(checkpoint.model, tuple(example)).eval()
    try:
        _trace(model, example, free).save(file)
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in example.items())
        raise GraphError(
            f"expected a model that torch.onnx can trace on {sizes}, "
            f"{type(checkpoint.model).__name__} failed ({cause_of(error)}): try another torch, or "
            "mend it"
        ) from None


def cause_of(error: Exception) -> str:
    """Return what an exporter's report is about, in one line: before that come its own hints."""
    text = _COLOUR.sub("", str(error)).rpartition(_SUMMARY)[2]
    return " ".join(text.split())[:200]


def _trace(
    model: _Logits, example: Mapping[str, Tensor], free: Mapping[int, str]
) -> torch.onnx.ONNXProgram:
    axes = {axis: torch.export.Dim(name) for axis, name in free.items()}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            tuple(example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=["logits"],
            dynamic_shapes={"inputs": tuple(dict(axes) for _ in example)},
            verbose=False,
        )
    assert program is not None  # noqa: S101 - narrows the type: with dynamo there is a program
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters report their progress and their own deprecations; neither is the user's."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "optimum")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
