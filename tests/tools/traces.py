"""Translates each model to ONNX once per test run: tracing takes most of an export's time."""

import contextlib
import hashlib
import shutil

import pytest
import torch
from torch.utils import _pytree as pytree

from export import exporters
from export.language import step
from export.sources import program


class Traces:
    """Graphs of `torch.onnx` and optimum, kept by model, example inputs and options.

    Args:
        folder: An empty folder for the graphs.

    Attributes:
        reused: Whether a kept graph may stand in for another trace.
    """

    def __init__(self, folder):
        self.folder = folder
        self.reused = True
        self._trace = exporters.trace
        self._optimum = exporters._export_with_optimum

    @contextlib.contextmanager
    def patched(self):
        """Let the exporters keep their graphs."""
        with pytest.MonkeyPatch.context() as patch:
            for module in (exporters, step, program):
                patch.setattr(module, "trace", self.trace)
            patch.setattr(exporters, "_export_with_optimum", self.export_with_optimum)
            yield

    def trace(self, module, file, *inputs, **options):
        shapes = [(x.dtype, x.shape) for x in pytree.tree_leaves(inputs)]
        self._keep(
            key_of(module, shapes, options),
            lambda: self._trace(module, file, *inputs, **options),
            file,
        )

    def export_with_optimum(self, checkpoint, folder):
        file = folder / "model.onnx"
        key = key_of(checkpoint.model, "optimum")
        self._keep(key, lambda: self._optimum(checkpoint, folder), file)
        return file

    def _keep(self, key, make, file):
        if self.reused and (self.folder / key).exists():
            shutil.copy(self.folder / key, file)
        else:
            make()
            shutil.copy(file, self.folder / key)


def key_of(module, *options):
    """Return a hash of the structure and weights of a module or program, and of the options."""
    is_program = isinstance(module, torch.export.ExportedProgram)
    digest = hashlib.sha256(f"{options} {module}".encode())
    if not is_program:
        parts = [(m.training, repr(getattr(m, "config", None))) for m in module.modules()]
        digest.update(f"{getattr(module, 'fused', None)} {parts}".encode())
    weights = module.state_dict if is_program else module.state_dict()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
