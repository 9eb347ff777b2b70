"""What M_L gets right, asked once an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data import LabelledData
from train.models import Checkpoint


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
