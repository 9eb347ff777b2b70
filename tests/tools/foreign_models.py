"""Makes what other people's tools would: programs and ONNX files of a checkpoint."""

import io
import warnings
from contextlib import redirect_stdout

import onnx
import torch
from torch import nn


class Logits(nn.Module):
    """A classifier as timm and torchvision have them: pictures in, a tensor out."""

    def __init__(self, checkpoint):
        super().__init__()
        self.model = checkpoint.model

    def forward(self, x):
        return self.model(pixel_values=x).logits


def write_program(module, path, *, size=(8, 8), batch=None):
    """Write a `torch.export` program; its batch axis is free unless one is given."""
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    example = (torch.zeros(batch or 2, 3, *size),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module.eval(), example, dynamic_shapes=shapes), path)
    return path


def write_onnx(module, path, *, opset=17, size=(8, 8), names=("scores",), batch=None):
    """Write an ONNX file with PyTorch's older exporter, which has nothing of ours."""
    axes = {"input": {0: "N"}, **{name: {0: "N"} for name in names}} if batch is None else {}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(batch or 2, 3, *size),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            output_names=list(names),
            dynamic_axes=axes,
        )
    return path


def rewrite(path, target, change):
    """Write a changed copy of an ONNX file."""
    model = onnx.load(path)
    onnx.save(change(model) or model, target)
    return target
