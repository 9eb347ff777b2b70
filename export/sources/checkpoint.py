"""A Hugging Face checkpoint of an image classifier as a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from edge_runtime.contract import InputDescription
from export.exporters import Exporter, export_logits
from export.external import OnnxFile
from export.sources.probes import image_size, synthetic_pictures
from export.sources.reference import Gate, Reference, checkpoint_reference
from export.sources.source import Feeds, Inputs, Pictures, Source
from train.models import Checkpoint, DeferralHead, read_head, training_of, weights_sha256

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


@dataclass(frozen=True, eq=False, kw_only=True)
class CheckpointSource(Source):
    """The part that checkpoints of image and text classifiers share.

    Attributes:
        checkpoint: The opened checkpoint.
        scratch: A folder for large weights.
        exporter: The translator to ONNX.
    """

    checkpoint: Checkpoint
    scratch: Path
    exporter: Exporter

    def reference(self, inputs: Inputs, gate: Gate) -> Reference:
        """Return the decisions of PyTorch."""
        assert inputs.raw is not None  # noqa: S101 - a checkpoint has a processor or a tokenizer
        return checkpoint_reference(self.checkpoint, inputs.raw, gate)

    def deferral_head(self) -> DeferralHead:
        """Return the head beside the weights."""
        return read_head(self.checkpoint)

    def sha256(self) -> str:
        """Return the sha256 of the weights."""
        return weights_sha256(self.place)


class ImageSource(CheckpointSource):
    """An image classifier with its processor."""

    image_size: tuple[int, int]

    def translate(self) -> OnnxFile:
        """Return the graph of the exporter."""
        return image_graph(self.checkpoint, self.image_size, self.scratch, self.exporter)

    def feeds(self, raw: Pictures) -> Feeds:
        """Return `pixel_values` float32 [n, 3, height, width]."""
        return {_PIXEL_VALUES: self.checkpoint.pixel_values(raw).contiguous().numpy()}

    def synthetic(self, seed: int) -> Inputs:
        """Return smooth pictures."""
        pictures = synthetic_pictures(self.processor, self.image_size, seed)
        return Inputs(self.feeds(pictures), pictures, synthetic=True)


def open_image_source(
    place: Path, checkpoint: Checkpoint, scratch: Path, exporter: Exporter
) -> ImageSource:
    """Return the checkpoint of an image classifier as a source.

    Raises:
        GraphError: Neither processor nor config give the size of pictures.
    """
    side = getattr(checkpoint.model.config, "image_size", None)
    size = image_size(checkpoint.processor, side)
    return ImageSource(
        place=place,
        labels=checkpoint.labels,
        input=InputDescription(name=_PIXEL_VALUES, dtype="float32", shape=("batch", 3, *size)),
        processor=checkpoint.processor,
        image_size=size,
        training=training_of(place),
        checkpoint=checkpoint,
        scratch=scratch,
        exporter=exporter,
    )
