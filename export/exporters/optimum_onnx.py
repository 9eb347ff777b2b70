"""Translates with optimum, which knows the usual architectures and is not always to be had.

Its ONNX part, optimum-onnx, holds transformers under 4.58; beside a newer one it does not import.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime import contract
from edge_runtime.errors import DependencyError
from export.errors import GraphError
from export.exporters.torch_onnx import OPSET, quiet
from train.models import Checkpoint


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
