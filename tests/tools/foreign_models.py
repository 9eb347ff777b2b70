"""Makes what other people's tools would: programs and ONNX files of a checkpoint."""

import io
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from export.sources.checkpoint import image_graph

GOAL = {"calibrate": "digits", "target_deferral": 0.3}


class Logits(nn.Module):
    """A classifier as timm and torchvision have them: pictures in, a tensor out."""

    def __init__(self, checkpoint):
        super().__init__()
        self.model = checkpoint.model

    def forward(self, x):
        return self.model(pixel_values=x).logits


def write_program(module, path, *, shape=(3, 8, 8), dtype=torch.float32, batch=None):
    """Write a `torch.export` program; its batch axis is free unless one is given."""
    shapes = ({0: torch.export.Dim("batch")},) if batch is None else None
    example = (torch.zeros(batch or 2, *shape, dtype=dtype),)
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


def cast_in_front(proto, name, element):
    """Let a model take another type, in place: its first node casts."""
    before = proto.graph.input[0].name
    proto.graph.input[0].type.tensor_type.elem_type = element
    proto.graph.input[0].name = name
    put_in_front(proto, helper.make_node("Cast", [name], [before], to=TensorProto.FLOAT))


def with_channels_last(proto, name="nhwc"):
    """Let a model take [batch, height, width, 3], in place, as tf2onnx writes one."""
    value = proto.graph.input[0]
    before, (batch, channels, height, width) = value.name, value.type.tensor_type.shape.dim
    sides = [batch.dim_param, height.dim_value, width.dim_value, channels.dim_value]
    element = value.type.tensor_type.elem_type
    value.CopyFrom(helper.make_tensor_value_info(name, element, sides))
    put_in_front(proto, helper.make_node("Transpose", [name], [before], perm=[0, 3, 1, 2]))


def put_in_front(proto, node):
    nodes = [node, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def show(proto, name, element=TensorProto.FLOAT, shape=("N", 10)):
    """Make a value inside a model an output too, in place."""
    proto.graph.output.append(helper.make_tensor_value_info(name, element, shape))


class Chain(nn.Module):
    """A classifier of bytes [batch, height, width, 3], as large as wanted: layers in a row."""

    def __init__(self, *, width=6400, layers=14, size=(8, 8), classes=10):
        super().__init__()
        torch.manual_seed(0)
        inputs = 3 * size[0] * size[1]
        sizes = [(inputs, width), *[(width, width)] * layers, (width, classes)]
        self.layers = nn.ModuleList(torch.nn.utils.skip_init(nn.Linear, *size) for size in sizes)
        noise = torch.randn(width * width)  # for all of them: drawing takes longest
        for number, (layer, (n, m)) in enumerate(zip(self.layers, sizes, strict=True)):
            layer.weight.data.copy_(noise.roll(number)[: n * m].reshape(m, n) * (2 / n) ** 0.5)
            layer.bias.data.zero_()

    def forward(self, pixels):
        x = (pixels.float() / 255 - 0.5).flatten(1)
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def logits_graph(checkpoint, size):
    """Return the graph of logits that an export of a checkpoint begins with."""
    with tempfile.TemporaryDirectory() as folder:
        return image_graph(checkpoint, size, Path(folder)).model
