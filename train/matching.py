"""Opens a checkpoint for a data set, and refuses one that was made for other labels."""

from __future__ import annotations

from pathlib import Path

from train.data import LabelledData
from train.errors import DataError
from train.models import Checkpoint, open_checkpoint

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
