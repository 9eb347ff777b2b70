"""A Hugging Face checkpoint of an image classifier as a source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch

from edge_runtime.contract import InputDescription
from export.exporters import Exporter, export_logits
from export.external import OnnxFile
from export.sources.probes import image_size, made_up_pictures
from export.sources.reference import Gate, Reference, ask_pytorch
from export.sources.source import Feeds, Inputs, Pictures
from train.data import Kind
from train.models import Checkpoint, DeferralHead, Training, read_head, training_of, weights_sha256

_PIXEL_VALUES = "pixel_values"


def image_graph(
    checkpoint: Checkpoint, size: tuple[int, int], folder: Path, exporter: Exporter = "torch"
) -> OnnxFile:
    """Return a graph pixel_values float32 [batch, 3, height, width] -> logits [batch, classes].

    Raises:
        GraphError: The model cannot be translated.
    """
    example = {_PIXEL_VALUES: torch.zeros(2, 3, *size)}
    return export_logits(
        checkpoint, example, folder, free={0: "batch"}, takes=(_PIXEL_VALUES,), exporter=exporter
    )


@dataclass(frozen=True)
class CheckpointSource:
    """An image classifier with its processor; see `Source`."""

    place: Path
    checkpoint: Checkpoint
    scratch: Path
    exporter: Exporter = "auto"
    kind: Kind = "image"
    tokenizer: None = None
    runs_in: str = "PyTorch"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.checkpoint.labels

    @property
    def input(self) -> InputDescription:
        """The `pixel_values`, float32."""
        shape = ("batch", 3, *self.image_size)
        return InputDescription(name=_PIXEL_VALUES, dtype="float32", shape=shape)

    @property
    def processor(self) -> Any:
        """The checkpoint's own."""
        return self.checkpoint.processor

    @property
    def image_size(self) -> tuple[int, int]:
        """The (height, width) of processor or config."""
        side = getattr(self.checkpoint.model.config, "image_size", None)
        return image_size(self.checkpoint.processor, side)

    def graph(self) -> onnx.ModelProto:
        """Return what the exporter makes of the model."""
        return self._translated.model

    @property
    def weights(self) -> Path | None:
        """The folder of weights that are too large for the graph, or None."""
        return self._translated.weights

    @cached_property
    def _translated(self) -> OnnxFile:
        return image_graph(self.checkpoint, self.image_size, self.scratch, self.exporter)

    def feeds(self, given: Pictures) -> Feeds:
        """Return `pixel_values` float32 [n, 3, height, width]."""
        return {_PIXEL_VALUES: self.checkpoint.pixel_values(given).contiguous().numpy()}

    def made_up(self, seed: int) -> Inputs:
        """Return smooth pictures."""
        images = made_up_pictures(self.processor, self.image_size, seed)
        return Inputs(self.feeds(images), images, made_up=True)

    def ask(self, inputs: Inputs, gate: Gate) -> Reference:
        """Let PyTorch decide."""
        assert inputs.given is not None  # noqa: S101 - a checkpoint has a processor
        return ask_pytorch(self.checkpoint, inputs.given, gate)

    @property
    def training(self) -> Training | None:
        """What the folder's `training.json` says."""
        return training_of(self.place)

    def deferral_head(self) -> DeferralHead:
        """Return the head beside the weights."""
        return read_head(self.checkpoint)

    def sha256(self) -> str:
        """Return that of the weights."""
        return weights_sha256(self.place)
