"""Loads the data that an export calibrates and verifies with."""

from __future__ import annotations

from edge_runtime import contract
from edge_runtime.contract import GateMetadata
from export.errors import LabelError
from train import data
from train.data import Kind, LabelledData


def load_split(
    name: str, split: str, *, labels: tuple[str, ...], owner: object, kind: Kind = "image"
) -> LabelledData:
    """Return one split of a data set that has the labels of a model, in the same order.

    Args:
        name: Data set name, folder or file.
        split: `train`, `validation` or `test`.
        labels: The model's.
        owner: The model's place, for the message.
        kind: What the model classifies.

    Raises:
        LabelError: The data are of other classes, or no pictures or texts as the model takes.
        DataError: They are missing or unreadable.
    """
    found: LabelledData = getattr(data.load(name), split)
    if found.kind != kind:
        raise LabelError(
            f"expected {kind}s for {owner}, {name} holds {found.kind}s: use the data it was "
            "trained for"
        )
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


def kind_of(metadata: GateMetadata) -> Kind:
    """Return what a bundle classifies."""
    return "text" if metadata.input.name == contract.TEXT else "image"
