"""Traces a checkpoint into an ONNX graph of logits with `torch.onnx`."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from export.errors import GraphError
from train.models import Checkpoint

OPSET = 18
PIXEL_VALUES = "pixel_values"


class _Logits(nn.Module):
    """Gives the logits alone, as the graph's one output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=pixel_values).logits
        return logits


def export_logits(checkpoint: Checkpoint, image_size: tuple[int, int]) -> onnx.ModelProto:
    """Return a graph pixel_values float32 [batch, 3, height, width] -> logits [batch, classes].

    Traces of the source (stack traces, paths) are stripped, so that the bytes do not depend on
    where the export ran.

    Raises:
        GraphError: The model cannot be traced.
    """
    try:
        model = _trace(_Logits(checkpoint.model).eval(), torch.zeros(2, 3, *image_size))
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code
        reason = " ".join(str(error).split())[:200]
        raise GraphError(
            f"expected a model that torch.onnx can trace at {list(image_size)} pixels, "
            f"{type(checkpoint.model).__name__} failed ({reason}): try another torch, or mend it"
        ) from None
    _strip(model)
    return model


def _trace(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[PIXEL_VALUES],
            output_names=["logits"],
            dynamic_shapes={PIXEL_VALUES: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # noqa: S101 - narrows the type: with dynamo there is a program
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter reports its progress and its own deprecations; neither is the user's."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    values: list[Any] = [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for value in values:
        del value.metadata_props[:]
