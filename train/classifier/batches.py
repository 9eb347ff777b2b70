"""A split as the training loop reads it: encoded for the model, one whole batch at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data import LabelledData
from train.data.labelled import Selection
from train.models import Checkpoint
from train.training.augment import Augment

_IN_MEMORY_BYTES = 2 << 30
_CHUNK = 256
_PREDICTED_AT_ONCE = 512
_MOST_WORKERS = 4


class EncodedData(torch.utils.data.Dataset[dict[str, Tensor]]):
    """A split, encoded for one model.

    Pictures pass the processor once, not once per epoch, unless they would fill the memory. Texts
    are encoded batch by batch, each padded to its own longest.

    Args:
        checkpoint: The model; it encodes the inputs.
        data: The split.
        columns: Further facts about the rows, by name, each [n, ...].
        augment: Applied to the encoded pictures of every batch.

    Attributes:
        workers: Number of processes that should encode ahead of the step.
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
        batch = self._inputs_at(indices)
        if self._augment is not None:
            batch["pixel_values"] = self._augment(batch["pixel_values"], indices)
        return {**batch, **{name: values[rows] for name, values in self._columns.items()}}

    def column(self, name: str) -> Tensor:
        """Return one of the columns [n, ...], to read or to overwrite in place."""
        return self._columns[name]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The labels int64 [n]."""
        return self._data.labels

    def predict(self, model: Any) -> npt.NDArray[np.int64]:
        """Return the classes int64 [n] that a model predicts in eval mode, without augmentation.

        Args:
            model: The model, perhaps in training; its mode is restored.
        """
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        parts = []
        with torch.inference_mode():
            for start in range(0, len(self), _PREDICTED_AT_ONCE):
                stop = min(start + _PREDICTED_AT_ONCE, len(self))
                batch = self._inputs_at(range(start, stop))
                logits = model(**{k: v.to(device) for k, v in batch.items()}).logits
                parts.append(logits.argmax(dim=-1).cpu().numpy())
        model.train(was_training)
        return np.concatenate(parts)

    def _inputs_at(self, indices: Sequence[int]) -> dict[str, Tensor]:
        if self._pixels is not None:
            return {"pixel_values": self._pixels[torch.as_tensor(indices)]}
        return self._checkpoint.encode(Selection(self._data.inputs, np.asarray(indices)))

    def _encode_all(self) -> Tensor | None:
        """Return the pictures of the split, or None where they would fill the memory."""
        size = len(self._data)
        first = self._checkpoint.pixel_values(self._data.inputs[:1])[0]
        if first.nbytes * size > _IN_MEMORY_BYTES:
            return None
        pixels = torch.empty((size, *first.shape), memory_format=torch.channels_last)
        for start in range(0, size, _CHUNK):
            pictures = self._data.inputs[start : start + _CHUNK]
            pixels[start : start + len(pictures)] = self._checkpoint.pixel_values(pictures)
        return pixels
