"""What an export needs to know of a model, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from edge_runtime.contract import InputDescription
from export.reference import Gate, Reference
from train.models import DeferralHead

Pictures = Sequence[npt.NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What an export is verified with.

    Attributes:
        pixels: float32 or float16 [n, ...], as the model takes them.
        images: The pictures uint8 [height, width, 3] they were made of; None without a processor.
        made_up: Whether they are no data.
    """

    pixels: npt.NDArray[Any]
    images: Pictures | None
    made_up: bool


class Source(Protocol):
    """A model to export; a `GraphError` says what is wrong with it."""

    @property
    def place(self) -> Path:
        """What the user named, for messages."""

    @property
    def runs_in(self) -> str:
        """What a message calls the original, e.g. `PyTorch`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""

    @property
    def input(self) -> InputDescription:
        """What the model itself takes."""

    @property
    def processor(self) -> Any | None:
        """The transformers image processor in front of the model, or None."""

    @property
    def image_size(self) -> tuple[int, int]:
        """The (height, width) the model works at; asked only where there is a processor."""

    @property
    def weights(self) -> Path | None:
        """The folder of the graph's external weights, or None where it holds all of them."""

    def graph(self) -> onnx.ModelProto:
        """Return a graph from `input` to logits float [batch, classes], its one output."""

    def pixel_values(self, images: Pictures) -> npt.NDArray[Any]:
        """Return what the processor makes of pictures uint8 [height, width, 3]."""

    def made_up(self, seed: int) -> Inputs:
        """Return inputs to verify with where there are no data."""

    def ask(self, inputs: Inputs, gate: Gate) -> Reference:
        """Let the original decide by itself, in float64."""

    def deferral_head(self) -> DeferralHead:
        """Return the deferral head that was fitted for the model."""

    def sha256(self) -> str:
        """Return the hexadecimal sha256 of what the user named."""
