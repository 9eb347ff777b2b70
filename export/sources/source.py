"""The interface of a model to export, whatever its origin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.contract import InputDescription
from export.errors import GraphError
from export.external import OnnxFile
from export.sources.reference import Gate, Reference
from train.data import Kind
from train.models import DeferralHead, Training

HEAD, COLUMNS, ROWS_AT_ONCE = "head", "columns", "rows_at_once"
"""Keys of `Source.notes`."""
Pictures = Sequence[npt.NDArray[np.uint8]]
Feeds = dict[str, npt.NDArray[Any]]
"""Inputs of a graph by name; rows along the first axis."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs that verify an export.

    Attributes:
        feeds: The inputs as the model takes them.
        raw: The pictures uint8 [height, width, 3] or texts behind the feeds; None without a
            processor.
        synthetic: Whether they are random instead of data.
    """

    feeds: Feeds
    raw: Sequence[Any] | None
    synthetic: bool

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    @property
    def pixels(self) -> npt.NDArray[Any]:
        """The one tensor of a model that takes one."""
        (pixels,) = self.feeds.values()
        return pixels


@dataclass(frozen=True, eq=False, kw_only=True)
class Source(ABC):
    """A model to export.

    Attributes:
        place: The file or folder that the user named, for messages.
        runs_in: Name of the original in messages.
        kind: The kind of inputs that the model classifies.
        labels: Class names in the order of the logits.
        input: Input of a bundle without fused preprocessing: the model's own tensor, or `text`.
        processor: The transformers image processor to fuse, or None.
        image_size: The (height, width) that the model works at; None without a processor.
        tokenizer: The `tokenizer.json` that goes into the bundle, or None.
        training: Record of the inputs that made the model, or None.
        notes: More of the bundle's metadata: what the output was taken for (`head`), the names of
            merged inputs (`columns`), a fixed batch (`rows_at_once`).
    """

    place: Path
    runs_in: str = "PyTorch"
    kind: Kind = "image"
    labels: tuple[str, ...]
    input: InputDescription
    processor: Any | None = None
    image_size: tuple[int, int] | None = None
    tokenizer: Path | None = None
    training: Training | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def translate(self) -> OnnxFile:
        """Return a graph from the inputs of `feeds` to one output, the logits [batch, classes].

        Raises:
            GraphError: The model cannot be translated.
        """

    @abstractmethod
    def feeds(self, raw: Sequence[Any]) -> Feeds:
        """Return the model's inputs for pictures uint8 [height, width, 3] or texts."""

    @abstractmethod
    def synthetic(self, seed: int) -> Inputs:
        """Return random inputs, to verify an export without data."""

    @abstractmethod
    def reference(self, inputs: Inputs, gate: Gate) -> Reference:
        """Return what the original decides by itself, in float64."""

    def deferral_head(self) -> DeferralHead:
        """Return the deferral head that was fitted for a checkpoint."""
        raise GraphError(f"expected a checkpoint with a deferral head, got {self.place}")

    @abstractmethod
    def sha256(self) -> str:
        """Return the hexadecimal sha256 of what the user named."""
