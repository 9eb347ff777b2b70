"""Loads the data that an export calibrates and verifies with."""

from __future__ import annotations

from export.errors import LabelError
from train import data
from train.data import LabelledData


def load_split(name: str, split: str, *, labels: tuple[str, ...], owner: object) -> LabelledData:
    """Return one split of a data set that has the labels of a model, in the same order.

    Args:
        name: Data set name, folder or file.
        split: `train`, `validation` or `test`.
        labels: The model's.
        owner: The model's place, for the message.

    Raises:
        LabelError: The data are of other classes.
        DataError: They are missing or unreadable.
    """
    found: LabelledData = getattr(data.load(name), split)
    require_labels(found.label_names, name, labels=labels, owner=owner)
    return found


def require_labels(
    came: tuple[str, ...], place: object, *, labels: tuple[str, ...], owner: object
) -> None:
    """Raise `LabelError` unless the labels are the same, in the same order."""
    if came != labels:
        raise LabelError(
            f"expected the {len(labels)} labels of {owner} ({', '.join(labels[:5])} ...), {place} "
            f"has {len(came)} ({', '.join(came[:5])} ...): use the data it was trained for"
        )
