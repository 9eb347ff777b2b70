"""Translates with `torch.onnx`."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from export.errors import GraphError
from train.models import Checkpoint

OPSET = 18
_SUMMARY = "## Exception summary"
_COLOUR = re.compile(r"\x1b\[\d*m")


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
