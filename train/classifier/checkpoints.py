"""Opens the checkpoint of M_S or M_L for a data set, and finds the inputs that it gets right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.data import LabelledData
from train.errors import DataError
from train.models import Checkpoint, naming_hint, open_checkpoint
from train.training.schedule import Device, move_to

_SHOWN = 5


def open_for(path: Path, data: LabelledData, name: str, *, device: Device = "cpu") -> Checkpoint:
    """Open a checkpoint whose labels are those of a data set, in the same order.

    Args:
        path: The checkpoint folder.
        data: A split of the data set.
        name: The data set's name in error messages.
        device: Where the model will compute.

    Raises:
        CheckpointError: It is missing, damaged, or takes another kind of input.
        DataError: Its labels differ, or stand in another order.
        DeviceError: CUDA was asked for and there is none.
    """
    checkpoint = open_checkpoint(path, kind=data.kind)
    if checkpoint.labels != data.label_names:
        raise DataError(
            f"expected the {len(checkpoint.labels)} labels of {path} "
            f"({', '.join(checkpoint.labels[:_SHOWN])} ...), {name} has {len(data.label_names)} "
            f"({', '.join(data.label_names[:_SHOWN])} ...): use the data it was trained for"
            f"{naming_hint(checkpoint.labels)}"
        )
    return move_to(checkpoint, device)


def right_of(checkpoint: Checkpoint, data: LabelledData) -> npt.NDArray[np.bool_]:
    """Return which inputs a checkpoint gets right, bool [n]."""
    right: npt.NDArray[np.bool_] = checkpoint.predict(data.inputs).argmax(axis=-1) == data.labels
    return right


def accuracy(checkpoint: Checkpoint, data: LabelledData) -> float:
    """Return the share of the inputs that a checkpoint gets right."""
    return float(right_of(checkpoint, data).mean())


@dataclass(frozen=True)
class LargeAnswers:
    """The inputs that M_L gets right.

    Attributes:
        right: Input id -> whether M_L is right.
    """

    right: Mapping[str, bool]

    @classmethod
    def of(cls, checkpoint: Checkpoint, *parts: LabelledData) -> LargeAnswers:
        """Let M_L answer every input of some splits."""
        right: dict[str, bool] = {}
        for data in parts:
            right |= dict(zip(data.ids, right_of(checkpoint, data).tolist(), strict=True))
        return cls(right)

    def flags(self, data: LabelledData) -> npt.NDArray[np.bool_]:
        """Return whether M_L is right, bool [n], for a split or a part of one."""
        return np.array([self.right[i] for i in data.ids], np.bool_)
