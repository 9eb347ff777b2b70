"""A Hugging Face checkpoint as a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from edge_runtime.contract import InputDescription
from export.made_up import image_size, made_up_pictures
from export.reference import Gate, Reference, ask_pytorch
from export.sources.source import Inputs, Pictures
from export.torch_exporter import PIXEL_VALUES, export_logits
from train.models import Checkpoint, DeferralHead, open_checkpoint, read_head, weights_sha256


@dataclass(frozen=True)
class CheckpointSource:
    """An image classifier with its processor; see `Source`."""

    place: Path
    checkpoint: Checkpoint
    weights: None = None
    runs_in: str = "PyTorch"

    @classmethod
    def open(cls, path: Path) -> CheckpointSource:
        """Open the folder.

        Raises:
            CheckpointError: It does not open.
        """
        return cls(path, open_checkpoint(path))

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.checkpoint.labels

    @property
    def input(self) -> InputDescription:
        """The `pixel_values`, float32."""
        shape = ("batch", 3, *self.image_size)
        return InputDescription(name=PIXEL_VALUES, dtype="float32", shape=shape)

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
        """Return what `torch.onnx` traces."""
        return export_logits(self.checkpoint, self.image_size)

    def pixel_values(self, images: Pictures) -> npt.NDArray[Any]:
        """Return float32 [n, 3, height, width]."""
        pixels: npt.NDArray[Any] = self.checkpoint.pixel_values(images).numpy()
        return pixels

    def made_up(self, seed: int) -> Inputs:
        """Return smooth pictures."""
        images = made_up_pictures(self.processor, self.image_size, seed)
        return Inputs(self.pixel_values(images), images, made_up=True)

    def ask(self, inputs: Inputs, gate: Gate) -> Reference:
        """Let PyTorch decide."""
        assert inputs.images is not None  # noqa: S101 - a checkpoint has a processor
        return ask_pytorch(self.checkpoint, inputs.images, gate)

    def deferral_head(self) -> DeferralHead:
        """Return the head beside the weights."""
        return read_head(self.checkpoint)

    def sha256(self) -> str:
        """Return that of the weights."""
        return weights_sha256(self.place)
