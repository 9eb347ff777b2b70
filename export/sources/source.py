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
from export.sources.reference import Gate, Reference
from train.data import Kind
from train.models import DeferralHead, Training

Pictures = Sequence[npt.NDArray[np.uint8]]
Feeds = dict[str, npt.NDArray[Any]]
"""What a graph takes, by the names of its inputs; rows along the first axis."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What an export is verified with.

    Attributes:
        feeds: As the model takes them.
        given: The pictures uint8 [height, width, 3] or texts they were made of; None where there is
            no processor.
        made_up: Whether they are no data.
    """

    feeds: Feeds
    given: Sequence[Any] | None
    made_up: bool

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    @property
    def pixels(self) -> npt.NDArray[Any]:
        """The one tensor of a model that takes one."""
        (pixels,) = self.feeds.values()
        return pixels


class Source(Protocol):
    """A model to export; a `GraphError` says what is wrong with it."""

    @property
    def place(self) -> Path:
        """What the user named, for messages."""

    @property
    def runs_in(self) -> str:
        """What a message calls the original, e.g. `PyTorch`."""

    @property
    def kind(self) -> Kind:
        """What it classifies."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""

    @property
    def input(self) -> InputDescription:
        """What a bundle takes where nothing is fused: the model's own tensor, or `text`."""

    @property
    def processor(self) -> Any | None:
        """The transformers image processor that can be fused, or None."""

    @property
    def image_size(self) -> tuple[int, int]:
        """The (height, width) the model works at; asked only where there is a processor."""

    @property
    def weights(self) -> Path | None:
        """The folder of the graph's external weights, or None where it holds all of them."""

    @property
    def tokenizer(self) -> Path | None:
        """The `tokenizer.json` that goes into the bundle, or None."""

    @property
    def training(self) -> Training | None:
        """What is known of the inputs that made the model."""

    def graph(self) -> onnx.ModelProto:
        """Return a graph from what `feeds` gives to logits float [batch, classes], its output."""

    def feeds(self, given: Sequence[Any]) -> Feeds:
        """Return what the model takes for pictures uint8 [height, width, 3] or texts."""

    def made_up(self, seed: int) -> Inputs:
        """Return inputs to verify with where there are no data."""

    def ask(self, inputs: Inputs, gate: Gate) -> Reference:
        """Let the original decide by itself, in float64."""

    def deferral_head(self) -> DeferralHead:
        """Return the deferral head that was fitted for the model."""

    def sha256(self) -> str:
        """Return the hexadecimal sha256 of what the user named."""
