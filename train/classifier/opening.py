"""Opens a checkpoint for a data set, and refuses one that was made for other labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.data import LabelledData
from train.errors import DataError
from train.models import Checkpoint, open_checkpoint

# MERGEDOC train/large.py: 'What M_L gets right, asked once an input.'

_SHOWN = 5


def open_for(path: Path, data: LabelledData, name: str) -> Checkpoint:
    """Open a checkpoint that answers with the labels of a data set.

    Args:
        path: The checkpoint folder.
        data: A split of the data set.
        name: What the user calls the data set.

    Raises:
        CheckpointError: It is missing, damaged, or takes another kind of input.
        DataError: Its labels are others, or in another order.
    """
    checkpoint = open_checkpoint(path, kind=data.kind)
    if checkpoint.labels != data.label_names:
        raise DataError(
            f"expected the {len(checkpoint.labels)} labels of {path} "
            f"({', '.join(checkpoint.labels[:_SHOWN])} ...), {name} has {len(data.label_names)} "
            f"({', '.join(data.label_names[:_SHOWN])} ...): take the data it was trained for"
        )
    return checkpoint


def right_of(checkpoint: Checkpoint, data: LabelledData) -> npt.NDArray[np.bool_]:
    """Return bool [n]: which inputs a checkpoint gets right."""
    right: npt.NDArray[np.bool_] = checkpoint.predict(data.inputs).argmax(axis=-1) == data.labels
    return right


@dataclass(frozen=True)
class LargeAnswers:
    """Whether M_L is right, by the id of the input."""

    right: Mapping[str, bool]

    @classmethod
    def of(cls, checkpoint: Checkpoint, *parts: LabelledData) -> LargeAnswers:
        """Ask M_L about every input of some splits."""
        right: dict[str, bool] = {}
        for data in parts:
            right |= dict(zip(data.ids, right_of(checkpoint, data).tolist(), strict=True))
        return cls(right)

    def flags(self, data: LabelledData) -> npt.NDArray[np.bool_]:
        """Return bool [n] for a split, or for a part of one."""
        return np.array([self.right[i] for i in data.ids], np.bool_)
