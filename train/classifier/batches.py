"""Feeds the training loop: a split, encoded as the model takes it, a whole batch at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data import LabelledData
from train.models import Checkpoint
from train.training.augment import Augment

_IN_MEMORY_BYTES = 2 << 30
_CHUNK = 256
_MOST_WORKERS = 4


class EncodedData(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A split as the model takes it.

    Pictures pass the processor once, not once an epoch, unless they would fill the memory. Texts
    are encoded batch by batch, each padded to its own longest.

    Args:
        checkpoint: Knows how the model wants its inputs.
        data: The split.
        columns: What else is known of its rows, by name, each [n, ...].
        augment: Applied to encoded pictures whenever they are asked for in a batch.

    Attributes:
        workers: Processes that should encode ahead of the step.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: LabelledData,
        columns: Mapping[str, Tensor] | None = None,
        *,
        augment: Augment | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._augment = augment
        self._data = data
        self._columns = {"labels": torch.from_numpy(np.asarray(data.labels)), **(columns or {})}
        self._pixels = self._encode_all() if checkpoint.kind == "image" else None
        late = checkpoint.kind == "image" and self._pixels is None
        self.workers = min(_MOST_WORKERS, os.cpu_count() or 1) if late else 0

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch; torch's loader prefers this to single items."""
        rows = torch.as_tensor(indices)
        batch = self.inputs_at(indices)
        if self._augment is not None:
            batch["pixel_values"] = self._augment(batch["pixel_values"], indices)
        return {**batch, **{name: values[rows] for name, values in self._columns.items()}}

    def inputs_at(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return the model's inputs of some rows, as they are."""
        if self._pixels is not None:
            return {"pixel_values": self._pixels[torch.as_tensor(indices)]}
        return self._checkpoint.encode([self._data.inputs[i] for i in indices])

    def column(self, name: str) -> Tensor:
        """Return one of the columns [n, ...], to read or to overwrite in place."""
        return self._columns[name]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The labels int64 [n]."""
        return self._data.labels

    def _encode_all(self) -> Tensor | None:
        size = len(self._data)
        first = self._checkpoint.pixel_values(self._data.inputs[:1])[0]
        if first.nbytes * size > _IN_MEMORY_BYTES:
            return None
        pixels = torch.empty((size, *first.shape), memory_format=torch.channels_last)
        for start in range(0, size, _CHUNK):
            pictures = self._data.inputs[start : start + _CHUNK]
            pixels[start : start + len(pictures)] = self._checkpoint.pixel_values(pictures)
        return pixels
